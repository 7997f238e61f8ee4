#include "topk_documents.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>

#include "accumulate.hpp"
#include "candidates.hpp"
#include "documents.hpp"
#include "fixed_point.hpp"
#include "score_postings.hpp"
#include "window_walk.hpp"

namespace sparsight {
namespace {

// Below one allowed passage in this many, scoring the allowed ones is cheaper than scanning all.
constexpr std::size_t kRareMask = 1000;

// Predictions, measured on a core with AVX-512 and 475,000 passages; they choose between ways to the same answer, and how
// many terms a budget allows (other paths take longer: then the clock ends the scan).
constexpr double kPassageNs = 0.03;  // scanning a dense term, a passage
constexpr double kPostingNs = 0.8;   // scanning a rare term, a posting
constexpr double kRunNs = 15;        // an exact score, a scanned term
constexpr double kLookUpNs = 60;     // an exact score, a term not scanned

constexpr uint32_t kCut = 4;  // Work::mode

// Memory kept per thread between searches. Sums are all zero whenever no search is running on the thread.
struct Scratch {
    alignas(64) int16_t sums[kWindow];
    alignas(64) int32_t wide[kWindow];
    uint16_t passages[kWindow + 64];
    int16_t found[kWindow + 64];
    std::vector<uint32_t> windows;  // first passages of those that a scan visited
    std::vector<Run> runs;          // of every window and term scanned
    bool dirty = true;
};

Scratch& scratch() {
    thread_local const std::unique_ptr<Scratch> kept = std::make_unique<Scratch>();
    if (kept->dirty) {  // new, or an exception left a window half done
        std::fill_n(kept->sums, kWindow, int16_t{0});
        std::fill_n(kept->wide, kWindow, 0);
    }
    kept->dirty = false;
    return *kept;
}

class Search {
public:
    Search(const Postings& postings, const Query& query, const SearchOptions& options, Work& work)
        : postings_(postings), options_(options), work_(work), documents_(postings, query.mask),
          held_(hold(postings, query.terms, query.weights, query.n_terms)), scratch_(scratch()),
          walk_(postings, documents_, options, work) {}

    Hits run() {
        options_.stop.check();
        if (held_.empty() || postings_.n_passages() == 0 || options_.min_score == INT32_MAX) return {};
        if (documents_.masked()) {
            const std::size_t rare = postings_.n_passages() / kRareMask + options_.k;
            if (documents_.count_allowed(rare) <= rare) return score_allowed();
        }
        const std::vector<HeldTerm> strongest = choose_terms();
        if (strongest.size() < held_.size() || options_.effort.budget_ns > 0) {
            Hits hits;
            if (approximate(strongest, hits)) return hits;
            Hits whole = exact();
            return work_.mode == kCut ? hits : whole;  // what was found stands if the budget ends within the second scan
        }
        return exact();
    }

private:
    // The terms that an approximate search scans; all of them for an exact one, and where weights may be negative:
    // then a sum over some terms says little about the rest.
    std::vector<HeldTerm> choose_terms() const {
        const Effort& effort = options_.effort;
        const bool partial = effort.mass < 1.0 || effort.budget_ns > 0;
        if (!partial || std::any_of(held_.begin(), held_.end(), [](const HeldTerm& h) { return h.weight < 0; })) return held_;
        std::vector<HeldTerm> sorted = held_;
        std::stable_sort(sorted.begin(), sorted.end(),
                         [&](const auto& a, const auto& b) { return bound(postings_, a) > bound(postings_, b); });
        double total = 0;
        for (const HeldTerm& held : held_) total += bound(postings_, held);
        double sum = 0;
        double cost_ns = 0;
        std::size_t n = 0;
        for (; n < sorted.size() && sum < effort.mass * total; ++n) {
            cost_ns += predicted_ns(sorted[n]);
            if (effort.budget_ns > 0 && n > 0 && cost_ns > 0.7 * double(effort.budget_ns)) break;
            sum += bound(postings_, sorted[n]);
        }
        double saved_ns = 0;
        for (std::size_t i = n; i < sorted.size(); ++i) saved_ns += predicted_ns(sorted[i]);
        const auto pool = double(std::max(options_.k, effort.pool));
        const double spent_ns = pool * (kRunNs * double(n) + kLookUpNs * double(sorted.size() - n));
        if (effort.budget_ns == 0 && effort.deviations >= 0 && saved_ns < spent_ns) return held_;  // exact is quicker
        sorted.resize(n);
        std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.term < b.term; });
        return sorted;
    }

    // Time to scan a term.
    double predicted_ns(const HeldTerm& held) const {
        return std::min(kPassageNs * postings_.n_passages(), kPostingNs * postings_.frequencies[held.term]);
    }

    // Scores every allowed passage.
    Hits score_allowed() {
        work_.mode = 1;
        work_.terms = held_.size();
        const std::vector<uint32_t> passages = documents_.allowed_passages();
        std::vector<int32_t> scores(passages.size());
        score_postings(postings_, held_, passages.data(), passages.size(), scores.data());
        work_.rescored += passages.size();
        std::vector<Candidate> scored;
        scored.reserve(passages.size());
        for (std::size_t i = 0; i < passages.size(); ++i) scored.push_back({scores[i], passages[i]});
        return best_documents(scored);
    }

    Hits exact() {
        const int32_t slack = largest_error(postings_, held_);
        // Where terms are too many for their rounding to leave anything of 15 bits, 32 bits it is.
        if (slack < kLargestSum / 4) {
            work_.mode = 0;
            const double unit = choose_unit(postings_, held_);
            const double floor = std::min(std::floor(unit * std::max(0, options_.min_score)), kLargestSum) - slack;
            Candidates candidates(options_.k, slack, std::max(1, static_cast<int32_t>(floor)), documents_);
            if (!scan(held_, unit, candidates)) return cut_short();
            // Sums of 0 do not tell small scores from none: the k-th best must be clear of them.
            if (floor >= 1 || candidates.kth() - slack >= 1) {
                rescore(held_, candidates.items());
                return best_documents(candidates.items());
            }
        }
        return wide();
    }

    Hits cut_short() {
        work_.mode = kCut;
        return {};
    }

    // False: what was found may be too far from the truth, or too little.
    bool approximate(const std::vector<HeldTerm>& strongest, Hits& hits) {
        const Effort& effort = options_.effort;
        work_.mode = 3;
        const double unit = choose_unit(postings_, strongest);
        Candidates candidates(std::max(options_.k, effort.pool), 0, 1, documents_);
        const bool whole = scan(strongest, unit, candidates);
        if (!whole) work_.mode = kCut;
        std::vector<Candidate>& scored = candidates.items();
        sort_by_passage(scored);
        const std::vector<Candidate> before = scored;
        rescore(strongest, scored);
        hits = best_documents(scored);
        if (effort.deviations < 0 || !whole) return true;
        if (hits.size() < options_.k || scored.size() < 2) return false;  // nothing to judge gains by
        double sum = 0, squares = 0, rest = 0;
        const double n = double(scored.size());
        for (std::size_t i = 0; i < scored.size(); ++i) {
            const double gain = scored[i].score - before[i].score / unit;
            sum += gain;
            squares += gain * gain;
        }
        for (const HeldTerm& held : held_) rest += bound(postings_, held);
        for (const HeldTerm& held : strongest) rest -= bound(postings_, held);
        const double mean = sum / n;
        const double reach = mean + effort.deviations * std::sqrt(std::max(0.0, squares / n - mean * mean));
        const double outside = candidates.least() + double(largest_error(postings_, strongest));  // more than any sum
        return outside / unit + std::min(rest, reach) <= hits.back().score;
    }

    bool scan(const std::vector<HeldTerm>& terms, double unit, Candidates& candidates) {
        const Kernels& kernels = kernels_of(options_.path);
        std::vector<Cursor> cursors = walk_.open(terms, unit);
        work_.terms = terms.size();
        scratch_.dirty = true;
        bool first_window = true;
        scratch_.runs.clear();
        scratch_.windows.clear();
        const bool whole = walk_.for_each(cursors, [&](uint32_t first, uint32_t width, uint32_t w) {
            scratch_.windows.push_back(first);
            for (Cursor& c : cursors) {
                Run& run = scratch_.runs.emplace_back();
                walk_.pass(c, w,
                     [&](const Bitmap& bitmap) {
                         kernels.add_bitmap(scratch_.sums, bitmap, c.op);
                         run = {bitmap.ranks, nullptr, bitmap.count};
                     },
                     [&](uint32_t end) {
                         const uint32_t at = c.list_at;
                         const uint32_t stop = kernels.add_list(scratch_.sums, c.open.slots, c.open.impacts, at,
                                                                c.open.n_list, end, c.op);
                         if (stop > at) run = {c.open.slots + 2 * at, c.open.impacts + at, stop - at};
                         return stop;
                     });
                work_.postings += run.n;
            }
            const uint32_t groups = (width + kGroup - 1) / kGroup;
            if (first_window) seed(kernels, candidates);
            first_window = false;
            const std::size_t n = kernels.collect(scratch_.sums, groups, static_cast<int16_t>(candidates.least()),
                                                  documents_.window_words(first), scratch_.passages, scratch_.found);
            if (groups < kGroups) std::fill_n(scratch_.sums + groups * kGroup, (kGroups - groups) * kGroup, int16_t{0});
            for (std::size_t i = 0; i < n; ++i) {
                const uint32_t passage = first + scratch_.passages[i];
                if (scratch_.passages[i] >= width) continue;
                if (documents_.masked() && !documents_.single() && !documents_.allows(documents_.of(passage))) continue;
                candidates.add(scratch_.found[i], passage);
            }
            candidates.cut_if_full();
        });
        scratch_.dirty = false;
        candidates.cut();
        return whole;
    }

    // A first threshold from the first window, so that not all of it is collected: a lower bound of its want-th best
    // sum. Where every passage is a document of its own that is one of the want-th best document.
    void seed(const Kernels& kernels, Candidates& candidates) {
        const std::size_t want = std::max(options_.k, options_.effort.pool);
        if (!documents_.single() || documents_.masked()) return;
        if (want <= kGroups / 2) {  // the maxima of the groups are different passages
            int16_t maxima[kGroups];
            kernels.group_maxima(scratch_.sums, maxima);
            std::nth_element(maxima, maxima + want - 1, maxima + kGroups, std::greater<>());
            candidates.raise(maxima[want - 1]);
            return;
        }
        constexpr int kBinBits = 6;
        uint32_t counts[(1 << 15 >> kBinBits) + 1] = {};
        for (const int16_t sum : scratch_.sums) ++counts[std::max<int>(sum, 0) >> kBinBits];
        std::size_t above = 0;
        for (int bin = 1 << 15 >> kBinBits; bin > 0; --bin) {
            above += counts[bin];
            if (above >= want) return candidates.raise(bin << kBinBits);
        }
    }

    // All matches in 32 bits.
    Hits wide() {
        work_.mode = 2;
        work_.terms = held_.size();
        std::vector<Cursor> cursors = walk_.open(held_, 0);
        Candidates candidates(options_.k, 0, std::max(0, options_.min_score) + 1, documents_);
        int32_t* const sums = scratch_.wide;
        scratch_.dirty = true;
        const bool whole = walk_.for_each(cursors, [&](uint32_t first, uint32_t width, uint32_t w) {
            for (Cursor& c : cursors) {
                const auto weight = static_cast<uint32_t>(c.held.weight);
                const auto add = [&](uint32_t slot, uint32_t impact) {
                    int32_t& sum = sums[slot & (kWindow - 1)];
                    sum = static_cast<int32_t>(static_cast<uint32_t>(sum) + weight * impact);
                };
                walk_.pass(c, w,
                     [&](const Bitmap& bitmap) {
                         const uint8_t* impact = bitmap.impacts;
                         for (uint32_t g = 0; g < kGroups; ++g) {
                             for (uint64_t bits = load64(bitmap.masks + 8 * g); bits != 0; bits &= bits - 1) {
                                 add(g * kGroup + slot_of(static_cast<uint32_t>(std::countr_zero(bits))), *impact++);
                             }
                         }
                         work_.postings += bitmap.count;
                     },
                     [&](uint32_t end) {
                         uint32_t at = c.list_at;
                         for (; at < c.open.n_list && load16(c.open.slots + 2 * at) < end; ++at) {
                             add(load16(c.open.slots + 2 * at), c.open.impacts[at]);
                         }
                         work_.postings += at - c.list_at;
                         return at;
                     });
            }
            for (uint32_t p = 0; p < width; ++p) {
                const int32_t score = sums[slot_of(p)];
                if (score >= candidates.least() && documents_.allows(documents_.of(first + p))) candidates.add(score, first + p);
            }
            std::fill_n(sums, kWindow, 0);
            candidates.cut_if_full();
        });
        scratch_.dirty = false;
        if (!whole) return cut_short();
        candidates.cut();
        sort_by_passage(candidates.items());
        return best_documents(candidates.items());
    }

    // Exact scores of what a scan found: by the runs of the scanned terms, and by random access for the others.
    void rescore(const std::vector<HeldTerm>& scanned, std::vector<Candidate>& candidates) {
        sort_by_passage(candidates);
        std::vector<int32_t> rest(candidates.size(), 0);
        if (scanned.size() < held_.size()) {
            std::vector<HeldTerm> others;
            std::set_difference(held_.begin(), held_.end(), scanned.begin(), scanned.end(), std::back_inserter(others),
                                [](const HeldTerm& a, const HeldTerm& b) { return a.term < b.term; });
            score_postings(postings_, others, passages_.data(), passages_.size(), rest.data());
        }
        std::size_t window = 0;
        for (std::size_t i = 0; i < candidates.size(); ++i) {
            const uint32_t first = candidates[i].passage / kWindow * kWindow;
            while (window < scratch_.windows.size() && scratch_.windows[window] != first) ++window;
            if (window == scratch_.windows.size()) throw CorruptIndex("postings.cell_blocks: blocks do not ascend");
            candidates[i].score = rest[i] + score_runs(scratch_.runs.data() + window * scanned.size(), scanned.data(),
                                                       scanned.size(), candidates[i].passage % kBlock);
        }
        work_.rescored += candidates.size();
    }

    void sort_by_passage(std::vector<Candidate>& candidates) {
        std::sort(candidates.begin(), candidates.end(), [](auto& a, auto& b) { return a.passage < b.passage; });
        passages_.clear();
        for (const Candidate& candidate : candidates) passages_.push_back(candidate.passage);
    }

    // The best passage of each document, the k best documents. Candidates ascend by passage, their scores are exact.
    Hits best_documents(const std::vector<Candidate>& candidates) const {
        Hits best;
        for (const Candidate& candidate : candidates) {
            if (candidate.score <= std::max(0, options_.min_score)) continue;
            const uint32_t document = documents_.of(candidate.passage);
            if (!best.empty() && best.back().id == document) {  // ascending passages: the first of equals stays
                if (candidate.score > best.back().score) best.back() = {candidate.score, document, candidate.passage};
            } else {
                best.push_back({candidate.score, document, candidate.passage});
            }
        }
        const auto better = [](const auto& a, const auto& b) { return a.better_than(b); };
        if (best.size() > options_.k) {
            std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(options_.k), best.end(), better);
            best.resize(options_.k);
        }
        std::sort(best.begin(), best.end(), better);
        return best;
    }

    const Postings& postings_;
    const SearchOptions& options_;
    Work& work_;
    Documents documents_;
    std::vector<HeldTerm> held_;
    Scratch& scratch_;
    WindowWalk walk_;
    std::vector<uint32_t> passages_;  // of the candidates that are being scored
};

}  // namespace

Hits topk_documents(const Postings& postings, const Query& query, const SearchOptions& options, Work& work) {
    return Search(postings, query, options, work).run();
}

}  // namespace sparsight
