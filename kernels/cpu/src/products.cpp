#include "products.hpp"

#include <cstdint>
#include <cstring>

#if SPARSIGHT_X86
// GCC 12 takes the deliberately undefined operand inside its own _mm512_reduce_add_ps for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace sparsight {
namespace {

typedef float Lanes __attribute__((vector_size(16)));  // GCC's and Clang's portable vectors: SSE2, NEON, ...

template <int R, int C>
void tile_portable(const float* x, const float* const* w, std::size_t width, float* out) {
    Lanes sums[R][C] = {};
    float tails[R][C] = {};
    std::size_t i = 0;
    for (; i + 4 <= width; i += 4) {
        for (int r = 0; r < R; ++r) {
            Lanes a;
            std::memcpy(&a, x + r * width + i, sizeof a);
            for (int c = 0; c < C; ++c) {
                Lanes b;
                std::memcpy(&b, w[c] + i, sizeof b);
                sums[r][c] += a * b;
            }
        }
    }
    for (; i < width; ++i) {
        for (int r = 0; r < R; ++r) {
            for (int c = 0; c < C; ++c) tails[r][c] += x[r * width + i] * w[c][i];
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) {
            const Lanes s = sums[r][c];
            out[r * kLatentBlock + c] = ((s[0] + s[2]) + (s[1] + s[3])) + tails[r][c];
        }
    }
}

#if SPARSIGHT_X86
alignas(32) constexpr std::array<int32_t, 16> kTailMask = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

template <int R, int C>
SPARSIGHT_AVX2 void tile_avx2(const float* x, const float* const* w, std::size_t width, float* out) {
    __m256 sums[R][C];
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) sums[r][c] = _mm256_setzero_ps();
    }
    std::size_t i = 0;
    for (; i + 8 <= width; i += 8) {
        __m256 b[C];
        for (int c = 0; c < C; ++c) b[c] = _mm256_loadu_ps(w[c] + i);
        for (int r = 0; r < R; ++r) {
            const __m256 a = _mm256_loadu_ps(x + r * width + i);
            for (int c = 0; c < C; ++c) sums[r][c] = _mm256_fmadd_ps(a, b[c], sums[r][c]);
        }
    }
    if (i < width) {
        const __m256i mask =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kTailMask.data() + 8 - (width - i)));
        for (int r = 0; r < R; ++r) {
            const __m256 a = _mm256_maskload_ps(x + r * width + i, mask);
            for (int c = 0; c < C; ++c) {
                sums[r][c] = _mm256_fmadd_ps(a, _mm256_maskload_ps(w[c] + i, mask), sums[r][c]);
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) {
            const __m256 s = sums[r][c];
            __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
            quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
            quarter = _mm_add_ss(quarter, _mm_movehdup_ps(quarter));
            out[r * kLatentBlock + c] = _mm_cvtss_f32(quarter);
        }
    }
}

template <int R, int C>
SPARSIGHT_AVX512 void tile_avx512(const float* x, const float* const* w, std::size_t width, float* out) {
    __m512 sums[R][C];
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) sums[r][c] = _mm512_setzero_ps();
    }
    std::size_t i = 0;
    for (; i + 16 <= width; i += 16) {
        __m512 b[C];
        for (int c = 0; c < C; ++c) b[c] = _mm512_loadu_ps(w[c] + i);
        for (int r = 0; r < R; ++r) {
            const __m512 a = _mm512_loadu_ps(x + r * width + i);
            for (int c = 0; c < C; ++c) sums[r][c] = _mm512_fmadd_ps(a, b[c], sums[r][c]);
        }
    }
    if (i < width) {
        const auto mask = static_cast<__mmask16>((1u << (width - i)) - 1);
        for (int r = 0; r < R; ++r) {
            const __m512 a = _mm512_maskz_loadu_ps(mask, x + r * width + i);
            for (int c = 0; c < C; ++c) {
                sums[r][c] = _mm512_fmadd_ps(a, _mm512_maskz_loadu_ps(mask, w[c] + i), sums[r][c]);
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) out[r * kLatentBlock + c] = _mm512_reduce_add_ps(sums[r][c]);
    }
}
#endif

}  // namespace

Tiles tiles_of(Path path) {
#if SPARSIGHT_X86
    if (path == Path::avx512) {
        return {tile_avx512<kRowTile, kLatentTile>, tile_avx512<1, kLatentTile>, tile_avx512<kRowTile, 1>,
                tile_avx512<1, 1>};
    }
    if (path == Path::avx2) {
        return {tile_avx2<kRowTile, kLatentTile>, tile_avx2<1, kLatentTile>, tile_avx2<kRowTile, 1>, tile_avx2<1, 1>};
    }
#endif
    (void)path;
    return {tile_portable<kRowTile, kLatentTile>, tile_portable<1, kLatentTile>, tile_portable<kRowTile, 1>,
            tile_portable<1, 1>};
}

void products(const Tiles& tiles, const float* x, const float* const* w, std::size_t n, std::size_t width, float* out) {
    std::size_t c = 0;
    for (; c + kLatentTile <= n; c += kLatentTile) tiles.row(x, w + c, width, out + c);
    for (; c < n; ++c) tiles.single(x, w + c, width, out + c);
}

}  // namespace sparsight
