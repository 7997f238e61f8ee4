// Sparse codes by greedy pursuit: of each row of y the few atoms, and values that are not negative, that rebuild it.
//
// A row begins without atoms and with itself as the residual. Up to k times the atom with the largest product with the
// residual is added, the values of all its atoms are fitted by coordinate descent on their Gram matrix, and the
// residual is made anew. To find that atom among N, scores of 8 bits (RoundedAtoms) shortlist some for the next four
// picks: a look; the products that decide are float32 ones of these candidates. sparsight.kernels.reference.pursue says
// exactly what comes out.
//
// Multiplications for a row, in thousands, with D = 384, k = 32, N = 16,384 and C = 128 candidates:
//
//   looks        k / 4 N D                                       50,332 of bytes
//   candidates   k C D                                            1,573
//   own atoms    1.5 k^2 D: their Gram matrix, products, residual   608
//   sweeps       4/3 k^3 + 30 k^2 at most                            77
//
// Candidates' products could be kept up to date by columns of their Gram matrix instead (Batch-OMP: Rubinstein,
// Zibulevsky, Elad 2008, "Efficient Implementation of the K-SVD Algorithm using Batch Orthogonal Matching Pursuit"),
// but a column takes the C D multiplications that the products take. The Gram matrix of the whole dictionary would make
// looks needless and takes N^2 floats, 1 GB here. Looks in float32 took 1.0 ms of 1.6 a row; these take 0.2 of 0.7.
// Candidates that are chosen once, by their products with y, are a look instead of k / 4, and leave a larger error: with
// 2048 of 4096 it grew by 2 %. What they choose is what queries that resemble y ask for, though.
#pragma once

#include <cstddef>
#include <cstdint>

#include "paths.hpp"

namespace sparsight {

struct PursuitInput {
    const float* y;  // (n_rows, width)
    std::size_t n_rows;
    const float* w_dec;  // (n_atoms, width), rows of length 1
    std::size_t n_atoms;
    std::size_t width;
    std::size_t k;
    std::size_t candidates;  // 0: all atoms, and no looks
    bool once;               // one look, for all k
};

// Fills idx and val, both (n_rows, k): value descending, then index ascending; -1 and 0 where there is no more.
void pursue(const PursuitInput& input, std::size_t threads, Path path, int32_t* idx, float* val);

}  // namespace sparsight
