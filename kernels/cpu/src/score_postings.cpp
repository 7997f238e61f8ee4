#include "score_postings.hpp"

#include <algorithm>
#include <bit>

#include "paths.hpp"

namespace sparsight {
namespace {

#define SPARSIGHT_INLINE inline __attribute__((always_inline))

// The impact of a passage (within the window) in a bitmap, or 0. Without branches on the data: the loads of many terms
// and passages can then be under way at once.
SPARSIGHT_INLINE uint32_t impact_in(const Bitmap& bitmap, uint32_t passage) {
    const uint32_t group = passage / kGroup;
    const uint32_t ranked = group / kRankStep * kRankStep;
    const uint64_t mask = load64(bitmap.masks + 8 * group);
    const uint64_t bit = uint64_t{1} << (passage % kGroup);
    uint32_t rank = load16(bitmap.ranks + 2 * (group / kRankStep));
    for (uint32_t g = 0; g < kRankStep - 1; ++g) {
        const uint64_t whole = load64(bitmap.masks + 8 * (ranked + g));
        rank += static_cast<uint32_t>(std::popcount(ranked + g < group ? whole : 0));
    }
    rank += static_cast<uint32_t>(std::popcount(mask & (bit - 1)));
    const uint32_t impact = bitmap.impacts[std::min(rank, bitmap.count - 1)];  // a bitmap has kDense impacts or more
    return (mask & bit) != 0 ? impact : 0;
}

// The impact of a slot among n ascending ones, or 0.
SPARSIGHT_INLINE uint32_t impact_in_list(const uint8_t* slots, const uint8_t* impacts, uint32_t n, uint32_t slot) {
    uint32_t low = 0;
    for (uint32_t size = n; size > 1;) {
        const uint32_t half = size / 2;
        low += load16(slots + 2 * (low + half)) <= slot ? half : 0;
        size -= half;
    }
    return n > 0 && load16(slots + 2 * low) == slot ? impacts[low] : 0;
}

SPARSIGHT_INLINE void score_any(const Postings& postings, const std::vector<HeldTerm>& terms, const uint32_t* passages,
                               std::size_t n, int32_t* scores) {
    std::fill_n(scores, n, 0);
    for (const HeldTerm& held : terms) {
        uint32_t cell_at = postings.cell_offsets[held.term];
        const uint32_t cell_end = postings.cell_offsets[held.term + 1];
        for (std::size_t i = 0; i < n;) {
            const uint32_t block = passages[i] / kBlock;
            std::size_t stop = i + 1;
            while (stop < n && passages[stop] / kBlock == block) ++stop;
            while (cell_at < cell_end && postings.cell_blocks[cell_at] < block) ++cell_at;
            if (cell_at < cell_end && postings.cell_blocks[cell_at] == block) {
                const Cell cell = open_cell(postings, held.term, cell_at);
                uint32_t window = kWindows;  // whose bitmap is open
                Bitmap bitmap{};
                for (std::size_t j = i; j < stop; ++j) {
                    const uint32_t local = passages[j] % kBlock;
                    const uint32_t w = local / kWindow;
                    uint32_t impact = 0;
                    if ((cell.dense >> w & 1) != 0) {
                        if (w != window) {
                            window = w;
                            bitmap = bitmap_of(cell, w);
                        }
                        impact = impact_in(bitmap, local % kWindow);
                    } else {
                        impact = impact_in_list(cell.slots, cell.impacts, cell.n_list, slot_of(local));
                    }
                    // check_query() has seen to it that no sum leaves int32; unsigned, so that damage cannot either.
                    scores[j] = static_cast<int32_t>(static_cast<uint32_t>(scores[j]) +
                                                     static_cast<uint32_t>(held.weight) * impact);
                }
            }
            i = stop;
        }
    }
}

// Damage could make a run's slots those of another window; sums are unsigned, so that it cannot make them overflow.
SPARSIGHT_INLINE int32_t score_runs_any(const Run* runs, const HeldTerm* terms, std::size_t n, uint32_t passage) {
    const uint32_t slot = slot_of(passage);
    uint32_t score = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const Run& run = runs[i];
        if (run.at == nullptr) continue;
        const uint32_t impact = run.impacts == nullptr ? impact_in(bitmap_at(run.at, run.n), passage % kWindow)
                                                       : impact_in_list(run.at, run.impacts, run.n, slot);
        score += static_cast<uint32_t>(terms[i].weight) * impact;
    }
    return static_cast<int32_t>(score);
}

#if SPARSIGHT_X86
// The same with the instruction that counts bits, which the oldest processors of this family lack.
__attribute__((target("popcnt"))) void score_popcnt(const Postings& postings, const std::vector<HeldTerm>& terms,
                                                    const uint32_t* passages, std::size_t n, int32_t* scores) {
    score_any(postings, terms, passages, n, scores);
}

__attribute__((target("popcnt"))) int32_t score_runs_popcnt(const Run* runs, const HeldTerm* terms, std::size_t n,
                                                            uint32_t passage) {
    return score_runs_any(runs, terms, n, passage);
}
#endif

}  // namespace

std::vector<HeldTerm> hold(const Postings& postings, const uint32_t* terms, const int16_t* weights, std::size_t n) {
    std::vector<HeldTerm> held;
    held.reserve(n);
    const uint32_t* from = postings.term_ids;
    const uint32_t* const last = postings.term_ids + postings.n_terms;
    for (std::size_t i = 0; i < n && from != last; ++i) {
        if (weights[i] == 0) continue;
        from = std::lower_bound(from, last, terms[i]);
        if (from == last || *from != terms[i]) continue;
        const auto term = static_cast<std::size_t>(from - postings.term_ids);
        check_term(postings, term);
        held.push_back({term, weights[i]});
    }
    return held;
}

int32_t score_runs(const Run* runs, const HeldTerm* terms, std::size_t n, uint32_t passage) {
#if SPARSIGHT_X86
    if (__builtin_cpu_supports("popcnt")) return score_runs_popcnt(runs, terms, n, passage);
#endif
    return score_runs_any(runs, terms, n, passage);
}

void score_postings(const Postings& postings, const std::vector<HeldTerm>& terms, const uint32_t* passages,
                    std::size_t n, int32_t* scores) {
#if SPARSIGHT_X86
    if (__builtin_cpu_supports("popcnt")) return score_popcnt(postings, terms, passages, n, scores);
#endif
    score_any(postings, terms, passages, n, scores);
}

void decode_term(const Postings& postings, std::size_t term, std::vector<uint32_t>& passages,
                 std::vector<uint8_t>& impacts) {
    check_term(postings, term);
    std::vector<std::pair<uint16_t, uint8_t>> window;
    for (uint32_t c = postings.cell_offsets[term]; c < postings.cell_offsets[term + 1]; ++c) {
        const Cell cell = open_cell(postings, term, c);
        uint32_t at = 0;
        for (uint32_t w = 0; w < kWindows; ++w) {
            const uint32_t base = cell.block * kBlock + w * kWindow;
            if ((cell.dense >> w & 1) != 0) {
                const Bitmap bitmap = bitmap_of(cell, w);
                if (!is_whole(bitmap)) throw_corrupt(postings, term, "a bitmap contradicts its count");
                const uint8_t* impact = bitmap.impacts;
                for (uint32_t g = 0; g < kGroups; ++g) {
                    for (uint64_t bits = load64(bitmap.masks + 8 * g); bits != 0; bits &= bits - 1) {
                        passages.push_back(base + g * kGroup + static_cast<uint32_t>(std::countr_zero(bits)));
                        impacts.push_back(*impact++);
                    }
                }
            } else {
                window.clear();
                for (; at < cell.n_list && load16(cell.slots + 2 * at) < (w + 1) * kWindow; ++at) {
                    const uint32_t slot = load16(cell.slots + 2 * at);
                    window.emplace_back(static_cast<uint16_t>(passage_of(slot) % kWindow), cell.impacts[at]);
                }
                std::sort(window.begin(), window.end());
                for (const auto& [passage, impact] : window) {
                    passages.push_back(base + passage);
                    impacts.push_back(impact);
                }
            }
        }
        if (at != cell.n_list) throw_corrupt(postings, term, "a list does not ascend");
    }
}

}  // namespace sparsight
