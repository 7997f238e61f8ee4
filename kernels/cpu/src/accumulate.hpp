// The inner loops of the scan: adding a term's impacts to the sums of a window, and finding the sums above a threshold.
//
// Sums are 16-bit fixed point: a posting adds floor(factor * impact / 256). One multiplication and one addition handle
// 32 passages; topk_documents.cpp chooses factors so that no sum leaves the range, and knows how far sums may be off.
// sums[slot] for the slots of one window, 64-byte aligned.
#pragma once

#include <cstddef>
#include <cstdint>

#include "paths.hpp"
#include "postings.hpp"

namespace sparsight {

struct Term16 {
    uint16_t factor;
    bool negative;  // subtract
};

struct Kernels {
    // Adds the impacts of a bitmap.
    void (*add_bitmap)(int16_t* sums, const Bitmap& bitmap, Term16 term);
    // Adds a list's postings whose slot lies below `end` (of the block), from `at` on; returns where it stopped.
    uint32_t (*add_list)(int16_t* sums, const uint8_t* slots, const uint8_t* impacts, uint32_t at, uint32_t n,
                         uint32_t end, Term16 term);
    // Writes the passages (of the window's first `groups` groups, ascending) whose sums are at least `least` and whose
    // bit is set in `allowed` (null: all), and their sums; leaves these sums zero. Both outputs have room for a window.
    // Returns how many.
    std::size_t (*collect)(int16_t* sums, uint32_t groups, int16_t least, const uint64_t* allowed, uint16_t* passages,
                           int16_t* found);
    // The largest sum of every group of 64 (kGroups of them).
    void (*group_maxima)(const int16_t* sums, int16_t* maxima);
};

const Kernels& kernels_of(Path path);

}  // namespace sparsight
