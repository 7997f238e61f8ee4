// Exact top-k documents over the postings of a query's terms.
//
// Passages are cut into windows. A window's scores fit the first-level cache, so the scattered additions of one term
// after the other hit it, and one SIMD scan per window finds the passages above the threshold. Windows that no
// posting of a positive term touches are never visited; nothing else depends on the number of passages.
//
// The plan, accumulating whole windows and then scanning them, is that of SINDI (2025, arXiv 2509.08395): no branch
// per posting depends on the data, which suits learned sparse queries of tens of terms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "paths.hpp"
#include "stop.hpp"
#include "top_k.hpp"

namespace sparsight {

// sparsight.kernels.Postings. Pointers stay the caller's; the arrays may be memory-mapped and read-only.
struct Postings {
    const uint32_t* term_ids;
    std::size_t n_terms;
    const uint64_t* offsets;  // n_terms + 1
    const uint32_t* passages;
    const uint8_t* impacts;
    std::size_t n_postings;
    const uint32_t* passage_offsets;  // n_documents + 1
    std::size_t n_documents;
};

struct Query {
    const uint32_t* terms;  // strictly ascending
    const int16_t* weights;
    std::size_t n_terms;
    const uint64_t* mask;  // one bit per document, or null for all
};

struct SearchOptions {
    std::size_t k;
    int32_t min_score;
    Stop stop;
    Path path;
    std::size_t window;  // passages per window, a power of two; 0 takes the default
};

using Hits = std::vector<Scored<int32_t>>;

// Best first. Throws CorruptIndex, SearchStopped, DeadlinePassed. Memory is accessed within bounds whatever the
// arrays hold; results of inconsistent arrays are unspecified.
Hits topk_documents(const Postings& postings, const Query& query, const SearchOptions& options);

}  // namespace sparsight
