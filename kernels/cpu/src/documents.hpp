// Passages and their documents: which document holds a passage, which passages a mask of documents allows.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "postings.hpp"

namespace sparsight {

class Documents {
public:
    Documents(const Postings& postings, const uint64_t* mask)
        : offsets_(postings.passage_offsets), n_(postings.n_documents), single_(postings.single), mask_(mask) {}

    bool single() const { return single_; }
    bool masked() const { return mask_ != nullptr; }

    uint32_t of(uint32_t passage) const {
        if (single_) return passage;
        const uint32_t* const above = std::upper_bound(offsets_, offsets_ + n_ + 1, passage);
        const auto document = static_cast<std::size_t>(above - offsets_) - 1;
        if (above == offsets_ || document >= n_) {
            throw CorruptIndex("postings.passage_offsets: no document holds passage " + std::to_string(passage));
        }
        return static_cast<uint32_t>(document);
    }

    bool allows(uint32_t document) const {
        return mask_ == nullptr || (mask_[document / 64] >> (document % 64) & 1) != 0;
    }

    // Allowed passages, at most `limit` + 1 counted.
    std::size_t count_allowed(std::size_t limit) const {
        std::size_t count = 0;
        for (std::size_t word = 0; word < (n_ + 63) / 64 && count <= limit; ++word) {
            if (single_) count += static_cast<std::size_t>(std::popcount(clipped(word)));
            else for_each_bit(word, [&](std::size_t d) { count += offsets_[d + 1] - offsets_[d]; });
        }
        return count;
    }

    std::vector<uint32_t> allowed_passages() const {
        std::vector<uint32_t> passages;
        for (std::size_t word = 0; word < (n_ + 63) / 64; ++word) {
            for_each_bit(word, [&](std::size_t d) {
                for (uint32_t p = offsets_[d]; p < offsets_[d + 1]; ++p) passages.push_back(p);
            });
        }
        return passages;
    }

    // Whether a document with a passage in [first, last) is allowed.
    bool any_allowed(uint32_t first, uint32_t last) const {
        if (mask_ == nullptr) return true;
        std::size_t from = of(first);
        const std::size_t to = of(last - 1);
        for (std::size_t word = from / 64; word <= to / 64; ++word) {
            uint64_t bits = mask_[word];
            if (word == from / 64) bits &= ~uint64_t{0} << (from % 64);
            if (word == to / 64) bits &= ~uint64_t{0} >> (63 - to % 64);
            if (bits != 0) return true;
        }
        return false;
    }

    // The mask's words for the passages of a window that begins at `first`, where they are the documents' own.
    const uint64_t* window_words(uint32_t first) const { return single_ && masked() ? mask_ + first / 64 : nullptr; }

private:
    uint64_t clipped(std::size_t word) const {
        const uint64_t bits = mask_[word];
        return word == n_ / 64 ? bits & ((uint64_t{1} << (n_ % 64)) - 1) : bits;
    }

    template <class Visit>
    void for_each_bit(std::size_t word, Visit&& visit) const {
        for (uint64_t bits = clipped(word); bits != 0; bits &= bits - 1) {
            visit(word * 64 + static_cast<std::size_t>(std::countr_zero(bits)));
        }
    }

    const uint32_t* offsets_;
    std::size_t n_;
    bool single_;
    const uint64_t* mask_;
};

}  // namespace sparsight
