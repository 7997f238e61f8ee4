// The atoms with the largest scores, without their order.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace sparsight {

// Keeps the `keep` largest scores above 0 of atoms that arrive in ascending order; of equal ones, the lower atoms.
//
// Twice as many are gathered and then cut: TopK's heap took 80 us to keep 256 of 16,384, as long as half of their
// float32 products.
class Shortlist {
public:
    explicit Shortlist(std::size_t keep) : keep_(keep) {}

    // Takes scores[c] of atom + c for every bit c of `above`: those above threshold(), which may rise.
    void offer(std::size_t atom, const float* scores, uint64_t above) {
        for (; above != 0; above &= above - 1) {
            const int c = std::countr_zero(above);
            // The bits of positive floats are in the order of the floats.
            keys_.push_back(uint64_t{std::bit_cast<uint32_t>(scores[c])} << 32 | ~static_cast<uint32_t>(atom + c));
        }
        if (keys_.size() >= 2 * keep_) cut();
    }

    float threshold() const { return threshold_; }

    void merge(const Shortlist& other) { keys_.insert(keys_.end(), other.keys_.begin(), other.keys_.end()); }

    // Calls take(atom) for the best `count`, count <= keep, of those that are not excluded.
    template <class Excluded, class Take>
    void best(std::size_t count, Excluded&& excluded, Take&& take) {
        keep_ = count;
        std::erase_if(keys_, [&](uint64_t key) { return excluded(~static_cast<uint32_t>(key)); });
        cut();
        for (const uint64_t key : keys_) take(~static_cast<uint32_t>(key));
    }

private:
    void cut() {
        if (keys_.size() <= keep_) return;
        std::nth_element(keys_.begin(), keys_.begin() + keep_ - 1, keys_.end(), std::greater<>());
        keys_.resize(keep_);
        threshold_ = std::bit_cast<float>(static_cast<uint32_t>(keys_.back() >> 32));  // what equals it comes later
    }

    std::size_t keep_;
    float threshold_ = 0.0f;
    std::vector<uint64_t> keys_;  // score, then the complement of the atom
};

}  // namespace sparsight
