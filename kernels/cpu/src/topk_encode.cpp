#include "topk_encode.hpp"

#include <algorithm>
#include <vector>

#include "products.hpp"
#include "top_k.hpp"
#include "work_queue.hpp"

namespace sparsight {
namespace {

constexpr std::size_t kRowsPerItem = 64;  // rows for which a block of latents, once read, stays in the cache
constexpr std::size_t kSerialWork = std::size_t{1} << 22;  // multiplications that one thread does within ~0.2 ms

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
    for_products(tiles, in.x + part.row * in.width, part.n_rows, in.w_enc, part.first, part.last, in.width,
                 [&](std::size_t r, std::size_t latent, float* values, std::size_t count) {
                     for (std::size_t c = 0; c < count; ++c) values[c] += in.b_enc[latent + c];
                     take(r, latent, values, count);
                 });
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
