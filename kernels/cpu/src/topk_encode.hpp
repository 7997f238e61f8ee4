// Positive pre-activations x . w_n + b_n of each row of x, in float32: the k largest, or all above a threshold.
//
// Each product of a row and a latent is summed in one fixed order (lane by lane along D, then across lanes), whatever
// tile it is part of: a row's result depends neither on the other rows nor on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "paths.hpp"

namespace sparsight {

struct EncodeInput {
    const float* x;  // (n_rows, width)
    std::size_t n_rows;
    const float* w_enc;  // (n_latents, width)
    const float* b_enc;  // (n_latents)
    std::size_t n_latents;
    std::size_t width;
};

// Fills idx and val, both (n_rows, k): value descending, then index ascending; -1 and 0 where there is no more.
void topk_encode(const EncodeInput& input, std::size_t k, std::size_t threads, Path path, int32_t* idx, float* val);

// Rows of unequal lengths: row r is [indptr[r], indptr[r + 1]) of idx and val.
struct SparseRows {
    std::vector<int64_t> indptr;
    std::vector<int32_t> idx;
    std::vector<float> val;
};

// The pre-activations above both threshold (n_latents) and 0, by ascending latent.
SparseRows threshold_encode(const EncodeInput& input, const float* threshold, std::size_t threads, Path path);

}  // namespace sparsight
