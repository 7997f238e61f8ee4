// The top-k documents over the postings of a query's terms.
//
// A search walks the windows of 8,192 passages. In each it adds up the terms' impacts in 16-bit fixed point, in the
// first-level cache, and collects the passages that can still be among the best. What is left at the end, a few more
// than k, is scored exactly in 32 bits. The order of the work is SINDI's (2025, arXiv 2509.08395), accumulate whole
// windows, then compare; bitmaps expanded by SIMD and fixed-point sums are what makes it quick for dense terms.
//
// Three ways lead to the same answer: the scan; scores of the allowed passages, where a filter allows few; and a plain
// 32-bit scan, where the query has fewer than k matches or so that fixed point cannot tell small scores from none.
//
// An approximate search scans only the query's strongest terms, scores the best `pool` passages with all terms, and
// looks at what those gained: if a passage outside the pool could have gained enough to enter, it scans again, exactly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "paths.hpp"
#include "postings.hpp"
#include "stop.hpp"
#include "top_k.hpp"

namespace sparsight {

struct Query {
    const uint32_t* terms;  // strictly ascending
    const int16_t* weights;
    std::size_t n_terms;
    const uint64_t* mask;  // one bit per document, or null for all
};

struct Effort {
    double mass = 1.0;        // share of the query's upper bound whose terms are scanned; 1: all, exact
    std::size_t pool = 0;     // passages scored with all terms; 0: k
    double deviations = 0.0;  // of the gain, above its mean, that an outsider may be expected to reach; below 0: no check
    int64_t budget_ns = 0;    // for the scan; 0: none
};

struct SearchOptions {
    std::size_t k;
    int32_t min_score;
    Stop stop;
    Path path;
    Effort effort;
};

// What a search did; sparsight.kernels.Work.
struct Work {
    uint32_t mode = 0;       // 0 exact scan, 1 chosen passages, 2 exact 32-bit scan, 3 approximate, 4 cut short
    uint64_t terms = 0;      // scanned (of those the postings hold)
    uint64_t postings = 0;   // of these terms, within the windows visited
    uint64_t passages = 0;   // visited
    uint64_t rescored = 0;   // scored one by one
};

using Hits = std::vector<Scored<int32_t>>;

// Best first. Throws CorruptIndex, SearchStopped, DeadlinePassed. Memory is accessed within bounds whatever the
// arrays hold; results of inconsistent arrays are unspecified.
Hits topk_documents(const Postings& postings, const Query& query, const SearchOptions& options, Work& work);

}  // namespace sparsight
