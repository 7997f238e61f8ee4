// Dot products of chosen rows of a sparse matrix with one query.
//
// Integer scores are exact. Floating-point ones are products that are exact in double, added in double from left to
// right and rounded once, so that every path (and the numpy reference) gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "paths.hpp"

namespace sparsight {

// Row r holds the entries [indptr[r], indptr[r + 1]) of ids.
struct Rows {
    const uint64_t* indptr;
    const uint32_t* ids;
    std::size_t nnz;
    const uint32_t* chosen;  // rows wanted, each below the number of rows; null for 0, 1, 2, ...
    std::size_t n_chosen;
};

// float32, or float16 as its bits; the other is null.
struct Values {
    const float* f32;
    const uint16_t* f16;
};

// All throw CorruptIndex for a row whose range leaves the entries; the last also for an id of q_length or more.
void score_passages(const Rows& rows, const uint8_t* impacts, const uint32_t* terms, const int16_t* weights,
                    std::size_t n_terms, int32_t* out);
void sparse_dot_sparse(const Rows& rows, const Values& values, const uint32_t* q_ids, const float* q_values,
                       std::size_t q_length, Path path, float* out);
void sparse_dot_dense(const Rows& rows, const Values& values, const float* q, std::size_t q_length, Path path,
                      float* out);

}  // namespace sparsight
