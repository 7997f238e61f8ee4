// Inner products of rows of x with rows of w, both `width` long, in float32.
//
// Each product is summed in one fixed order (lane by lane along the rows, then across lanes), whatever tile it is part
// of: its bits depend on the two rows and the path, and on nothing beside them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "paths.hpp"

namespace sparsight {

constexpr std::size_t kRowTile = 4;       // rows of x multiplied at once
constexpr std::size_t kLatentTile = 4;    // rows of w multiplied at once: 16 sums hide the latency of 4 to 5 cycles
constexpr std::size_t kLatentBlock = 64;  // 64 rows of 384 floats are 96 KiB: second-level cache

// out[r * kLatentBlock + c] = x_r . w[c] for R rows of x, which follow each other, and C rows of w, which need not.
using Tile = void (*)(const float* x, const float* const* w, std::size_t width, float* out);

// The tiles of one path: full, one row of x, one row of w, one of each.
struct Tiles {
    Tile full;
    Tile row;
    Tile latent;
    Tile single;
};

Tiles tiles_of(Path path);

// out[c] = x . w[c] for n rows of w, wherever they are.
void products(const Tiles& tiles, const float* x, const float* const* w, std::size_t n, std::size_t width, float* out);

// Calls take(r, latent, values, count) with values[c] = x_r . w_(latent + c), for all of n_rows rows of x and the rows
// [first, last) of w. For each row of x the latents ascend. A block of w is read once for all rows of x.
template <class Take>
void for_products(const Tiles& tiles, const float* x, std::size_t n_rows, const float* w, std::size_t first,
                  std::size_t last, std::size_t width, Take&& take) {
    std::array<float, kRowTile * kLatentBlock> out;
    std::array<const float*, kLatentBlock> rows;
    for (std::size_t block = first; block < last; block += kLatentBlock) {
        const std::size_t count = std::min(kLatentBlock, last - block);
        for (std::size_t c = 0; c < count; ++c) rows[c] = w + (block + c) * width;
        for (std::size_t r = 0; r < n_rows;) {
            const std::size_t height = n_rows - r >= kRowTile ? kRowTile : 1;
            for (std::size_t c = 0; c < count;) {
                const bool wide = count - c >= kLatentTile;
                const Tile tile = height == kRowTile ? (wide ? tiles.full : tiles.latent)
                                                     : (wide ? tiles.row : tiles.single);
                tile(x + r * width, rows.data() + c, width, out.data() + c);
                c += wide ? kLatentTile : 1;
            }
            for (std::size_t t = 0; t < height; ++t) take(r + t, block, out.data() + t * kLatentBlock, count);
            r += height;
        }
    }
}

}  // namespace sparsight
