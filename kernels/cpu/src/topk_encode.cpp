#include "topk_encode.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "top_k.hpp"
#include "work_queue.hpp"

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

constexpr std::size_t kRowTile = 4;       // rows multiplied at once
constexpr std::size_t kLatentTile = 4;    // latents multiplied at once: 16 sums hide the latency of 4 to 5 cycles
constexpr std::size_t kRowsPerItem = 64;  // rows for which a block of latents, once read, stays in the cache
constexpr std::size_t kLatentBlock = 64;  // 64 latents of 384 floats are 96 KiB: second-level cache
constexpr std::size_t kSerialWork = std::size_t{1} << 22;  // multiplications that one thread does within ~0.2 ms

// out[r * kLatentBlock + c] = x_r . w_c for R rows and C latents, each `width` long and apart.
using Tile = void (*)(const float* x, const float* w, std::size_t width, float* out);

// --- tiles ------------------------------------------------------------------------------------------------

typedef float Lanes __attribute__((vector_size(16)));  // GCC's and Clang's portable vectors: SSE2, NEON, ...

template <int R, int C>
void tile_portable(const float* x, const float* w, std::size_t width, float* out) {
    Lanes sums[R][C] = {};
    float tails[R][C] = {};
    std::size_t i = 0;
    for (; i + 4 <= width; i += 4) {
        for (int r = 0; r < R; ++r) {
            Lanes a;
            std::memcpy(&a, x + r * width + i, sizeof a);
            for (int c = 0; c < C; ++c) {
                Lanes b;
                std::memcpy(&b, w + c * width + i, sizeof b);
                sums[r][c] += a * b;
            }
        }
    }
    for (; i < width; ++i) {
        for (int r = 0; r < R; ++r) {
            for (int c = 0; c < C; ++c) tails[r][c] += x[r * width + i] * w[c * width + i];
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
SPARSIGHT_AVX2 void tile_avx2(const float* x, const float* w, std::size_t width, float* out) {
    __m256 sums[R][C];
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) sums[r][c] = _mm256_setzero_ps();
    }
    std::size_t i = 0;
    for (; i + 8 <= width; i += 8) {
        __m256 b[C];
        for (int c = 0; c < C; ++c) b[c] = _mm256_loadu_ps(w + c * width + i);
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
                sums[r][c] = _mm256_fmadd_ps(a, _mm256_maskload_ps(w + c * width + i, mask), sums[r][c]);
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
SPARSIGHT_AVX512 void tile_avx512(const float* x, const float* w, std::size_t width, float* out) {
    __m512 sums[R][C];
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) sums[r][c] = _mm512_setzero_ps();
    }
    std::size_t i = 0;
    for (; i + 16 <= width; i += 16) {
        __m512 b[C];
        for (int c = 0; c < C; ++c) b[c] = _mm512_loadu_ps(w + c * width + i);
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
                sums[r][c] = _mm512_fmadd_ps(a, _mm512_maskz_loadu_ps(mask, w + c * width + i), sums[r][c]);
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) out[r * kLatentBlock + c] = _mm512_reduce_add_ps(sums[r][c]);
    }
}
#endif

// The tiles of one path: full, one row, one latent, one of each.
struct Tiles {
    Tile full;
    Tile row;
    Tile latent;
    Tile single;
};

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

// --- rows and latents -------------------------------------------------------------------------------------

using Codes = std::vector<Scored<float>>;

// One item of work: rows [row, row + n_rows), n_rows <= kRowsPerItem, times latents [first, last).
struct Part {
    std::size_t row;
    std::size_t n_rows;
    std::size_t first;
    std::size_t last;
    std::size_t chunk;  // which of the stretches of latents it is
};

// How the work is cut up. Few rows: the latents are cut as well, so that one query's encoding uses every thread.
struct Cut {
    Cut(const EncodeInput& in, std::size_t wanted_threads) : n_rows(in.n_rows), n_latents(in.n_latents) {
        const bool little = n_rows * n_latents * std::max<std::size_t>(in.width, 1) < kSerialWork;
        threads = little ? 1 : wanted_threads;
        const std::size_t share = (n_rows + threads - 1) / threads;
        per_item = std::min(kRowsPerItem, (share + kRowTile - 1) / kRowTile * kRowTile);
        const std::size_t row_items = (n_rows + per_item - 1) / per_item;
        const std::size_t wanted = row_items >= threads ? 1 : (threads + row_items - 1) / row_items;
        const std::size_t blocks = (n_latents + kLatentBlock - 1) / kLatentBlock;
        const std::size_t blocks_per_chunk = (blocks + wanted - 1) / wanted;
        latents_per_chunk = blocks_per_chunk * kLatentBlock;
        chunks = (blocks + blocks_per_chunk - 1) / blocks_per_chunk;
        parts = row_items * chunks;
    }

    Part part(std::size_t i) const {
        const std::size_t row = i / chunks * per_item;
        const std::size_t first = i % chunks * latents_per_chunk;
        return {row, std::min(per_item, n_rows - row), first, std::min(n_latents, first + latents_per_chunk),
                i % chunks};
    }

    std::size_t n_rows, n_latents, threads, per_item, latents_per_chunk, chunks, parts;
};

// Calls take(r, latent, values, count) with the part's pre-activations: of row part.row + r, latents [latent, latent +
// count). For each row the latents ascend.
template <class Take>
void for_pre_acts(const EncodeInput& in, const Tiles& tiles, const Part& part, Take&& take) {
    std::array<float, kRowTile * kLatentBlock> products;
    for (std::size_t block = part.first; block < part.last; block += kLatentBlock) {
        const std::size_t n_latents = std::min(kLatentBlock, part.last - block);
        for (std::size_t r = 0; r < part.n_rows;) {
            const std::size_t height = part.n_rows - r >= kRowTile ? kRowTile : 1;
            const float* const x = in.x + (part.row + r) * in.width;
            for (std::size_t c = 0; c < n_latents;) {
                const bool wide = n_latents - c >= kLatentTile;
                const Tile tile = height == kRowTile ? (wide ? tiles.full : tiles.latent)
                                                     : (wide ? tiles.row : tiles.single);
                tile(x, in.w_enc + (block + c) * in.width, in.width, products.data() + c);
                c += wide ? kLatentTile : 1;
            }
            for (std::size_t t = 0; t < height; ++t) {
                float* const values = products.data() + t * kLatentBlock;
                for (std::size_t c = 0; c < n_latents; ++c) values[c] += in.b_enc[block + c];
                take(r + t, block, values, n_latents);
            }
            r += height;
        }
    }
}

}  // namespace

void topk_encode(const EncodeInput& in, std::size_t k, std::size_t threads, Path path, int32_t* idx, float* val) {
    std::fill(idx, idx + in.n_rows * k, -1);
    std::fill(val, val + in.n_rows * k, 0.0f);
    if (in.n_rows == 0 || in.n_latents == 0) return;
    const Cut cut(in, threads);
    const Tiles tiles = tiles_of(path);
    const std::size_t keep = std::min(k, in.n_latents);
    std::vector<Codes> partial(in.n_rows * cut.chunks);
    for_each_item(cut.parts, cut.threads, [&](std::size_t item) {
        const Part part = cut.part(item);
        std::vector<TopK<float>> tops(part.n_rows);
        for (TopK<float>& top : tops) top.reset(keep, 0.0f);
        for_pre_acts(in, tiles, part, [&](std::size_t r, std::size_t latent, const float* values, std::size_t count) {
            TopK<float>& top = tops[r];
            for (std::size_t c = 0; c < count; ++c) {
                if (values[c] > top.threshold()) top.offer({values[c], static_cast<uint32_t>(latent + c), 0});
            }
        });
        for (std::size_t r = 0; r < part.n_rows; ++r) {
            partial[(part.row + r) * cut.chunks + part.chunk] = std::move(tops[r].sorted());
        }
    });
    for (std::size_t row = 0; row < in.n_rows; ++row) {
        Codes& all = partial[row * cut.chunks];
        for (std::size_t chunk = 1; chunk < cut.chunks; ++chunk) {
            const Codes& more = partial[row * cut.chunks + chunk];
            all.insert(all.end(), more.begin(), more.end());
        }
        if (cut.chunks > 1) {
            std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.better_than(b); });
        }
        for (std::size_t i = 0; i < std::min(keep, all.size()); ++i) {
            idx[row * k + i] = static_cast<int32_t>(all[i].id);
            val[row * k + i] = all[i].score;
        }
    }
}

SparseRows threshold_encode(const EncodeInput& in, const float* threshold, std::size_t threads, Path path) {
    SparseRows out;
    out.indptr.assign(in.n_rows + 1, 0);
    if (in.n_rows == 0 || in.n_latents == 0) return out;
    const Cut cut(in, threads);
    const Tiles tiles = tiles_of(path);
    std::vector<Codes> partial(in.n_rows * cut.chunks);
    for_each_item(cut.parts, cut.threads, [&](std::size_t item) {
        const Part part = cut.part(item);
        for_pre_acts(in, tiles, part, [&](std::size_t r, std::size_t latent, const float* values, std::size_t count) {
            Codes& codes = partial[(part.row + r) * cut.chunks + part.chunk];
            for (std::size_t c = 0; c < count; ++c) {
                if (values[c] > threshold[latent + c] && values[c] > 0.0f) {
                    codes.push_back({values[c], static_cast<uint32_t>(latent + c), 0});
                }
            }
        });
    });
    std::size_t total = 0;
    for (const Codes& codes : partial) total += codes.size();
    out.idx.reserve(total);
    out.val.reserve(total);
    for (std::size_t row = 0; row < in.n_rows; ++row) {
        for (std::size_t chunk = 0; chunk < cut.chunks; ++chunk) {
            for (const Scored<float>& code : partial[row * cut.chunks + chunk]) {
                out.idx.push_back(static_cast<int32_t>(code.id));
                out.val.push_back(code.score);
            }
        }
        out.indptr[row + 1] = static_cast<int64_t>(out.idx.size());
    }
    return out;
}

}  // namespace sparsight
