// Sums in 16-bit fixed point: what a score of 1 is in them, and how far they may be off.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "score_postings.hpp"

namespace sparsight {

// Sums may use 15 bits; a little is left for rounding.
inline constexpr double kLargestSum = 32'700;
// What a term adds may come out too small by less than this: once for its factor, once for the product.
inline constexpr int32_t kErrorPerTerm = 2;

// What a term can add to a score.
inline double bound(const Postings& postings, const HeldTerm& held) {
    return std::abs(held.weight) * double(postings.max_impacts[held.term]);
}

// How many terms of each sign a passage can hold: positive ones make its sum too small, negative ones too large.
inline std::pair<std::size_t, std::size_t> most_held(const Postings& postings, const std::vector<HeldTerm>& terms) {
    const std::size_t most = postings.most_terms;
    const auto negative = static_cast<std::size_t>(
        std::count_if(terms.begin(), terms.end(), [](const HeldTerm& held) { return held.weight < 0; }));
    return {std::min(most, terms.size() - negative), std::min(most, negative)};
}

// By how much the sums of two passages may be off against each other.
inline int32_t largest_error(const Postings& postings, const std::vector<HeldTerm>& terms) {
    const auto [positive, negative] = most_held(postings, terms);
    return static_cast<int32_t>(std::min<std::size_t>(kErrorPerTerm * (positive + negative), INT16_MAX));
}

inline double sum_of_largest(std::vector<double>& values, std::size_t n) {
    const auto end = values.begin() + static_cast<std::ptrdiff_t>(n);
    std::nth_element(values.begin(), end, values.end(), std::greater<>());
    return std::accumulate(values.begin(), end, 0.0);
}

// What a score of 1 is in sums. The largest possible sum and the largest factor just fit.
inline double choose_unit(const Postings& postings, const std::vector<HeldTerm>& terms) {
    const auto [positive, negative] = most_held(postings, terms);
    double largest = 1;
    std::vector<double> bounds[2];
    for (const HeldTerm& held : terms) {
        bounds[held.weight < 0].push_back(bound(postings, held));
        largest = std::max(largest, double(std::abs(held.weight)));
    }
    const double sum = std::max({sum_of_largest(bounds[0], positive), sum_of_largest(bounds[1], negative), 1.0});
    return std::min(kLargestSum / sum, 65'535 / 256.0 / largest);
}

}  // namespace sparsight
