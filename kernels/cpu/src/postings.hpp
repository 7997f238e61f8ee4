// The inverted index of one field of one segment, as it lies in memory and on disk (index/FORMAT.md, "postings").
//
// Passages are cut into blocks of 65,536 and these into 8 windows of 8,192. The postings of a term within a block are a
// cell. In a window where at least one passage in 32 holds the term, the cell keeps a bitmap and the impacts of the set
// bits; the postings of its other windows form one list of 16-bit slots and impacts. A bitmap costs 1/8 byte a passage,
// a list 2 bytes a posting: the bitmap is smaller from one passage in 16 on, and expanding it with SIMD is faster than
// scattering a list from about one in 40 on, which is why the border lies between.
//
// Slots number the passages of a group of 64 with the even ones first: then the 16-bit lanes of a register that hold
// the even and the odd bytes of 64 expanded impacts are 32 neighbouring accumulators each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "errors.hpp"

namespace sparsight {

constexpr uint32_t kBlock = 65536;
constexpr uint32_t kWindow = 8192;
constexpr uint32_t kWindows = kBlock / kWindow;
constexpr uint32_t kGroup = 64;
constexpr uint32_t kGroups = kWindow / kGroup;
constexpr uint32_t kDense = kWindow / 32;    // postings of a window from which it is kept as a bitmap
constexpr uint32_t kRankStep = 8;            // groups between two stored ranks
constexpr uint32_t kRanks = kGroups / kRankStep;
constexpr std::size_t kMaskBytes = kGroups * 8;
constexpr std::size_t kRankBytes = kRanks * 2;
constexpr std::size_t kPadding = 64;         // zero bytes after the last cell: SIMD loads may reach that far

inline uint16_t load16(const uint8_t* at) {
    uint16_t value;
    std::memcpy(&value, at, 2);
    return value;
}

inline uint64_t load64(const uint8_t* at) {
    uint64_t value;
    std::memcpy(&value, at, 8);
    return value;
}

inline uint32_t slot_of(uint32_t passage) { return (passage & ~63u) | (passage & 1) << 5 | (passage >> 1 & 31); }
inline uint32_t passage_of(uint32_t slot) { return (slot & ~63u) | (slot & 31) << 1 | (slot >> 5 & 1); }

// sparsight.kernels.Postings. Pointers stay the caller's; the arrays may be memory-mapped and read-only.
struct Postings {
    const uint32_t* term_ids;      // n_terms, ascending
    const uint32_t* frequencies;   // n_terms
    const uint8_t* max_impacts;    // n_terms
    const uint32_t* cell_offsets;  // n_terms + 1, into the cells
    const uint64_t* byte_offsets;  // n_terms + 1, into data
    std::size_t n_terms;
    const uint16_t* cell_blocks;   // n_cells, ascending within a term
    const uint32_t* cell_bytes;    // n_cells, from the term's first byte
    std::size_t n_cells;
    const uint8_t* data;
    std::size_t n_bytes;
    const uint32_t* passage_offsets;  // n_documents + 1
    std::size_t n_documents;
    bool single;                      // every document has exactly one passage
    uint32_t most_terms;              // that a passage holds; UINT32_MAX where it is not known

    uint32_t n_passages() const { return passage_offsets[n_documents]; }
};

// One cell, its parts found and checked to lie within the term's bytes.
struct Cell {
    uint32_t block = 0;
    uint32_t n_list = 0;
    uint32_t dense = 0;               // bit w: window w has a bitmap
    const uint8_t* counts = nullptr;  // 16 bits for each bitmap
    const uint8_t* slots = nullptr;   // 16 bits each, ascending
    const uint8_t* impacts = nullptr;
    const uint8_t* bitmaps = nullptr;  // ranks, masks, impacts of each dense window
};

[[noreturn]] inline void throw_corrupt(const Postings& postings, std::size_t term, const std::string& what) {
    throw CorruptIndex("postings of term " + std::to_string(postings.term_ids[term]) + ": " + what);
}

// The cells of a term; throws CorruptIndex when they do not lie within the arrays.
inline void check_term(const Postings& p, std::size_t term) {
    if (p.cell_offsets[term] > p.cell_offsets[term + 1] || p.cell_offsets[term + 1] > p.n_cells ||
        p.byte_offsets[term] > p.byte_offsets[term + 1] || p.byte_offsets[term + 1] > p.n_bytes - kPadding) {
        throw_corrupt(p, term, "offsets outside of the arrays");
    }
}

// check_term() must have passed.
inline Cell open_cell(const Postings& p, std::size_t term, std::size_t cell) {
    const uint8_t* const end = p.data + p.byte_offsets[term + 1];
    const uint64_t room = p.byte_offsets[term + 1] - p.byte_offsets[term];
    const auto fail = [&] { throw_corrupt(p, term, "cell " + std::to_string(cell) + " reaches beyond its bytes"); };
    if (uint64_t{p.cell_bytes[cell]} + 4 > room) fail();
    const uint8_t* const at = p.data + p.byte_offsets[term] + p.cell_bytes[cell];
    Cell made;
    made.block = p.cell_blocks[cell];
    made.n_list = load16(at);
    made.dense = at[2];
    made.counts = at + 4;
    const auto n_dense = static_cast<std::size_t>(__builtin_popcount(made.dense));
    const auto left = static_cast<std::size_t>(end - made.counts);
    if (2 * n_dense + std::size_t{3} * made.n_list > left) fail();
    made.slots = made.counts + 2 * n_dense;
    made.impacts = made.slots + std::size_t{2} * made.n_list;
    made.bitmaps = made.impacts + made.n_list;
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < n_dense; ++i) {
        const uint32_t count = load16(made.counts + 2 * i);
        if (count < kDense || count > kWindow) throw_corrupt(p, term, "a bitmap of " + std::to_string(count));
        bytes += kRankBytes + kMaskBytes + count;
    }
    if (bytes > static_cast<std::size_t>(end - made.bitmaps)) fail();
    if (made.block * uint64_t{kBlock} >= p.n_passages()) throw_corrupt(p, term, "a cell beyond the last passage");
    return made;
}

// Bitmap of a dense window: 16-bit ranks of every eighth group, 64-bit masks, impacts of the set bits in order.
struct Bitmap {
    const uint8_t* ranks;
    const uint8_t* masks;
    const uint8_t* impacts;
    uint32_t count;

    const uint8_t* end() const { return impacts + count; }
};

inline Bitmap bitmap_at(const uint8_t* at, uint32_t count) {
    return {at, at + kRankBytes, at + kRankBytes + kMaskBytes, count};
}

// The bitmap of a window that has one.
inline Bitmap bitmap_of(const Cell& cell, uint32_t window) {
    const uint8_t* at = cell.bitmaps;
    const auto before = static_cast<unsigned>(__builtin_popcount(cell.dense & ((1u << window) - 1)));
    for (unsigned i = 0; i < before; ++i) at += kRankBytes + kMaskBytes + load16(cell.counts + 2 * i);
    return bitmap_at(at, load16(cell.counts + 2 * before));
}

// Whether a bitmap's masks have as many bits as it has impacts. Checksums keep damage from getting here; this keeps
// loads within the arrays if it does.
inline bool is_whole(const Bitmap& bitmap) {
    uint32_t bits = 0;
    for (uint32_t g = 0; g < kGroups; ++g) bits += static_cast<uint32_t>(__builtin_popcountll(load64(bitmap.masks + 8 * g)));
    return bits == bitmap.count;
}

}  // namespace sparsight
