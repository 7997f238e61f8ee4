#include "rounded_atoms.hpp"

#include <bit>
#include <cfloat>
#include <cstring>
#include <numeric>

#include "work_queue.hpp"

#if SPARSIGHT_X86
// GCC 12 takes deliberately undefined operands inside its own conversions for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace sparsight {
namespace {

constexpr std::size_t kBlock = RoundedAtoms::kBlock;

#if SPARSIGHT_X86
template <int R>
SPARSIGHT_AVX512 void byte_tile_avx512(const uint8_t* x, const int8_t* w, std::size_t steps, const int32_t* excess,
                                       const float* units, const float* thresholds, float* out, uint64_t* above) {
    constexpr int G = kBlock / 16;  // registers of 16 atoms with 4 bytes each
    __m512i sums[R][G];
    for (int r = 0; r < R; ++r) {
        for (int g = 0; g < G; ++g) sums[r][g] = _mm512_setzero_si512();
    }
    for (std::size_t s = 0; s < steps; ++s) {
        __m512i b[G];
        for (int g = 0; g < G; ++g) b[g] = _mm512_loadu_si512(w + (s * G + g) * 64);
        for (int r = 0; r < R; ++r) {
            int32_t four;
            std::memcpy(&four, x + (r * steps + s) * 4, 4);
            const __m512i a = _mm512_set1_epi32(four);
            for (int g = 0; g < G; ++g) sums[r][g] = _mm512_dpbusd_epi32(sums[r][g], a, b[g]);
        }
    }
    for (int r = 0; r < R; ++r) {
        const __m512 threshold = _mm512_set1_ps(thresholds[r]);
        above[r] = 0;
        for (int g = 0; g < G; ++g) {
            const __m512i sum = _mm512_sub_epi32(sums[r][g], _mm512_loadu_si512(excess + g * 16));
            const __m512 score = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(units + g * 16));
            _mm512_storeu_ps(out + r * kBlock + g * 16, score);
            above[r] |= uint64_t{_mm512_cmp_ps_mask(score, threshold, _CMP_GT_OQ)} << (g * 16);
        }
    }
}
#endif

// The largest whole number: 127, or less for rows so long that a sum of products could reach 2^24.
float levels_for(std::size_t width) {
    std::size_t levels = 127;
    while (levels > 1 && levels * levels * width >= (std::size_t{1} << 24)) --levels;
    return static_cast<float>(levels);
}

// Writes rint(x / unit) to out and returns the unit: 0, and zeros, where a component is not finite or all are tiny.
float round_row(const float* x, std::size_t width, float levels, float* out) {
    int32_t bits = 0;  // of the largest size: without the sign, the bits of floats are in the order of the floats
    for (std::size_t d = 0; d < width; ++d) bits = std::max(bits, std::bit_cast<int32_t>(x[d]) & 0x7FFFFFFF);
    const float largest = std::bit_cast<float>(bits);
    const float unit = largest / levels;
    if (!(largest <= FLT_MAX) || unit < FLT_MIN) {
        std::fill(out, out + width, 0.0f);
        return 0.0f;
    }
    // Floats of the size of 1.5 * 2^23 are whole. A division, since compilers join a product to the addition that
    // follows it, on some paths and not on others.
    constexpr float kWhole = 12582912.0f;
    for (std::size_t d = 0; d < width; ++d) out[d] = (x[d] / unit + kWhole) - kWhole;
    return unit;
}

}  // namespace

RoundedAtoms::RoundedAtoms(const float* w, std::size_t n_atoms, std::size_t width, std::size_t threads, Path path)
    : width_(width), steps_((width + 3) / 4), levels_(levels_for(width)), tiles_(tiles_of(path)) {
#if SPARSIGHT_X86
    if (path == Path::avx512) {
        full_ = byte_tile_avx512<kRowTile>;
        single_ = byte_tile_avx512<1>;
    }
#endif
    const std::size_t blocks = (n_atoms + kBlock - 1) / kBlock;
    units_.resize(blocks * kBlock);
    if (full_ != nullptr) {
        bytes_.resize(blocks * kBlock * steps_ * 4);
        excess_.resize(blocks * kBlock);
    } else {
        floats_.resize(n_atoms * width);
    }
    for_each_item(blocks, threads, [&](std::size_t block) {
        round_block(w, block * kBlock, std::min(n_atoms, (block + 1) * kBlock));
    });
}

void RoundedAtoms::round_block(const float* w, std::size_t first, std::size_t last) {
    std::vector<float> whole(width_);
    std::vector<int8_t> bytes(steps_ * 4);
    for (std::size_t atom = first; atom < last; ++atom) {
        float* const values = full_ != nullptr ? whole.data() : floats_.data() + atom * width_;
        units_[atom] = round_row(w + atom * width_, width_, levels_, values);
        if (full_ == nullptr) continue;
        for (std::size_t d = 0; d < width_; ++d) bytes[d] = static_cast<int8_t>(static_cast<int32_t>(values[d]));
        excess_[atom] = 128 * std::accumulate(bytes.begin(), bytes.end(), 0);
        int8_t* const to = bytes_.data() + first * steps_ * 4 + (atom - first) * 4;
        for (std::size_t s = 0; s < steps_; ++s) std::memcpy(to + s * kBlock * 4, bytes.data() + s * 4, 4);
    }
}

void RoundedAtoms::Rows::assign(const RoundedAtoms& atoms, const float* x, std::size_t n_rows) {
    const std::size_t width = atoms.width_;
    n_rows_ = n_rows;
    floats_.resize(n_rows * width);
    if (atoms.full_ != nullptr) bytes_.assign(n_rows * atoms.steps_ * 4, 0);
    for (std::size_t r = 0; r < n_rows; ++r) {
        float* const whole = floats_.data() + r * width;
        round_row(x + r * width, width, atoms.levels_, whole);
        if (atoms.full_ == nullptr) continue;
        uint8_t* const to = bytes_.data() + r * atoms.steps_ * 4;
        for (std::size_t d = 0; d < width; ++d) to[d] = static_cast<uint8_t>(static_cast<int32_t>(whole[d]) + 128);
    }
}

}  // namespace sparsight
