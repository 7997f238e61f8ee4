// A dictionary in whole numbers of 8 bits, to find out at little cost which atoms have large products with a row.
//
// An atom w becomes rint(w / u), whole numbers from -L to L, and its unit u = max |w| / L; a row likewise. The sum of
// products of whole numbers, times the atom's unit, is the atom's score. L is 127, or as much as keeps all sums below
// 2^24: float32 then holds them as exactly as integers do, and scores are the same on every path.
//
// AVX-512 multiplies 64 bytes at once (VNNI), which makes scores four times as quick as float32 products. The other
// paths multiply the whole numbers in float32: no quicker, but the same.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "paths.hpp"
#include "products.hpp"

namespace sparsight {

// above[r] has a bit for each of 64 atoms whose score with row r exceeds thresholds[r]; scores are out[r * 64 + c].
// Rows and atoms are `steps` times 4 bytes; rows are raised by 128, which adds `excess` to an atom's sums.
using ByteTile = void (*)(const uint8_t* x, const int8_t* w, std::size_t steps, const int32_t* excess,
                          const float* units, const float* thresholds, float* out, uint64_t* above);

class RoundedAtoms {
public:
    static constexpr std::size_t kBlock = 64;  // atoms scored at once

    RoundedAtoms(const float* w, std::size_t n_atoms, std::size_t width, std::size_t threads, Path path);

    // Rounded rows, which `score` takes.
    class Rows {
    public:
        void assign(const RoundedAtoms& atoms, const float* x, std::size_t n_rows);

    private:
        friend class RoundedAtoms;
        std::size_t n_rows_ = 0;
        std::vector<uint8_t> bytes_;
        std::vector<float> floats_;
    };

    // For the atoms [first, last), by blocks from `first` on, a multiple of kBlock: calls take(r, atom, scores, above)
    // if scores of row r are above thresholds[r], at least 0: scores[c] of atom + c for every bit c of `above`. Blocks
    // ascend for each row, and `take` may raise its threshold. Scores leave out the row's unit. Rows and atoms that are
    // not finite have scores of 0.
    template <class Take>
    void score(const Rows& rows, const float* thresholds, std::size_t first, std::size_t last, Take&& take) const;

private:
    void round_block(const float* w, std::size_t first, std::size_t last);

    std::size_t width_;
    std::size_t steps_;
    float levels_;
    Tiles tiles_;
    ByteTile full_ = nullptr;  // of kRowTile rows; where there is none, floats_ are used
    ByteTile single_ = nullptr;
    std::vector<float> units_;     // those from here on: 0 beyond the atoms, up to whole blocks
    std::vector<int8_t> bytes_;    // (blocks, steps, kBlock, 4)
    std::vector<int32_t> excess_;  // 128 times the sum of an atom's bytes
    std::vector<float> floats_;    // (n_atoms, width)
};

template <class Take>
void RoundedAtoms::score(const Rows& rows, const float* thresholds, std::size_t first, std::size_t last,
                         Take&& take) const {
    if (full_ == nullptr) {
        for_products(tiles_, rows.floats_.data(), rows.n_rows_, floats_.data(), first, last, width_,
                     [&](std::size_t r, std::size_t atom, float* scores, std::size_t count) {
                         uint64_t above = 0;
                         for (std::size_t c = 0; c < count; ++c) {
                             scores[c] *= units_[atom + c];
                             above |= uint64_t{scores[c] > thresholds[r]} << c;
                         }
                         if (above != 0) take(r, atom, scores, above);
                     });
        return;
    }
    std::array<float, kRowTile * kBlock> out;
    std::array<uint64_t, kRowTile> above;
    for (std::size_t block = first; block < last; block += kBlock) {
        for (std::size_t r = 0; r < rows.n_rows_;) {
            const std::size_t height = rows.n_rows_ - r >= kRowTile ? kRowTile : 1;
            const ByteTile tile = height == kRowTile ? full_ : single_;
            tile(rows.bytes_.data() + r * steps_ * 4, bytes_.data() + block * steps_ * 4, steps_,
                 excess_.data() + block, units_.data() + block, thresholds + r, out.data(), above.data());
            for (std::size_t t = 0; t < height; ++t) {
                if (above[t] != 0) take(r + t, block, out.data() + t * kBlock, above[t]);
            }
            r += height;
        }
    }
}

}  // namespace sparsight
