// Random access to postings: exact scores of chosen passages, and the postings of one term.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "postings.hpp"

namespace sparsight {

// A term of a query that the postings hold.
struct HeldTerm {
    std::size_t term;  // position in Postings::term_ids
    int32_t weight;
};

// The terms that the postings hold, in their order; checked. Weights of 0 are left out.
std::vector<HeldTerm> hold(const Postings& postings, const uint32_t* terms, const int16_t* weights, std::size_t n);

// A term's postings within one window: a bitmap, or a stretch of a list. Found by a scan, kept for random access.
struct Run {
    const uint8_t* at = nullptr;       // the bitmap, or the first slot; null: no postings
    const uint8_t* impacts = nullptr;  // of a list
    uint32_t n = 0;
};

// sum of weight * impact over runs[i] and weights terms[i].weight, of one passage (within the window).
int32_t score_runs(const Run* runs, const HeldTerm* terms, std::size_t n, uint32_t passage);

// scores[i] = sum of weight * impact over the terms, for ascending passages (repeats allowed) below n_passages.
// O(terms * passages): an impact is found by a bit test and a rank, or by a binary search in a list.
void score_postings(const Postings& postings, const std::vector<HeldTerm>& terms, const uint32_t* passages,
                    std::size_t n, int32_t* scores);

// Ascending passages and impacts of one term (position in term_ids).
void decode_term(const Postings& postings, std::size_t term, std::vector<uint32_t>& passages,
                 std::vector<uint8_t>& impacts);

}  // namespace sparsight
