#include "topk_documents.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <iterator>
#include <memory>
#include <numeric>
#include <utility>

#include "accumulate.hpp"
#include "documents.hpp"
#include "score_postings.hpp"

namespace sparsight {
namespace {

// Below one allowed passage in this many, scoring the allowed ones is cheaper than scanning all.
constexpr std::size_t kRareMask = 1000;
// Sums may use 15 bits; a little is left for rounding.
constexpr double kLargestSum = 32'700;
// What a term adds may come out too small by less than this: once for its factor, once for the product.
constexpr int32_t kErrorPerTerm = 2;

// Predictions, measured on a core with AVX-512 and 475,000 passages; they choose between ways to the same answer, and how
// many terms a budget allows (other paths take longer: then the clock ends the scan).
constexpr double kPassageNs = 0.03;  // scanning a dense term, a passage
constexpr double kPostingNs = 0.8;   // scanning a rare term, a posting
constexpr double kRunNs = 15;        // an exact score, a scanned term
constexpr double kLookUpNs = 60;     // an exact score, a term not scanned

constexpr uint32_t kCut = 4;  // Work::mode

using Clock = std::chrono::steady_clock;

// A term's way through its cells.
struct Cursor {
    HeldTerm held;
    Term16 op;
    uint32_t cell = 0;
    uint32_t cell_end = 0;
    Cell open;
    bool active = false;         // has a cell in the current block
    uint32_t list_at = 0;
    unsigned bitmaps_seen = 0;
    const uint8_t* next_bitmap = nullptr;
};

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

// --- candidates -------------------------------------------------------------------------------------------

struct Candidate {
    int32_t score;
    uint32_t passage;
};

// Passages that may be among the best `want` documents, when scores may be off by `slack`.
class Candidates {
public:
    Candidates(std::size_t want, int32_t slack, int32_t least, const Documents& documents)
        : want_(want), slack_(slack), least_(least), documents_(documents), room_(std::max<std::size_t>(2 * want, 256)) {}

    // Passages that score less cannot be among the best any more.
    int32_t least() const { return least_; }
    // The want-th best document's score as of the last cut; 0 while there are fewer documents.
    int32_t kth() const { return kth_; }
    std::vector<Candidate>& items() { return items_; }

    void add(int32_t score, uint32_t passage) { items_.push_back({score, passage}); }

    void raise(int32_t kth) {
        kth_ = std::max(kth_, kth);
        least_ = std::max(least_, kth_ - slack_);
    }

    void cut_if_full() {
        if (items_.size() <= room_) return;
        cut();
        room_ = std::max(room_, items_.size() + items_.size() / 2);
    }

    void cut() {
        scores_.clear();
        if (documents_.single()) {
            for (const Candidate& item : items_) scores_.push_back(item.score);
        } else {
            by_document_.clear();
            for (const Candidate& item : items_) by_document_.push_back({documents_.of(item.passage), -item.score});
            std::sort(by_document_.begin(), by_document_.end());
            for (std::size_t i = 0; i < by_document_.size(); ++i) {
                if (i == 0 || by_document_[i].first != by_document_[i - 1].first) scores_.push_back(-by_document_[i].second);
            }
        }
        if (scores_.size() < want_) return;
        std::nth_element(scores_.begin(), scores_.begin() + static_cast<std::ptrdiff_t>(want_ - 1), scores_.end(),
                         std::greater<>());
        raise(scores_[want_ - 1]);
        std::erase_if(items_, [&](const Candidate& item) { return item.score < least_; });
    }

private:
    std::size_t want_;
    int32_t slack_;
    int32_t least_;
    int32_t kth_ = 0;
    const Documents& documents_;
    std::size_t room_;
    std::vector<Candidate> items_;
    std::vector<int32_t> scores_;
    std::vector<std::pair<uint32_t, int32_t>> by_document_;
};

// --- the search -------------------------------------------------------------------------------------------

class Search {
public:
    Search(const Postings& postings, const Query& query, const SearchOptions& options, Work& work)
        : postings_(postings), options_(options), work_(work), documents_(postings, query.mask),
          held_(hold(postings, query.terms, query.weights, query.n_terms)), scratch_(scratch()),
          began_(options.effort.budget_ns > 0 ? Clock::now() : Clock::time_point{}) {}

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
    double bound(const HeldTerm& held) const { return std::abs(held.weight) * double(postings_.max_impacts[held.term]); }

    // The terms that an approximate search scans; all of them for an exact one, and where weights may be negative:
    // then a sum over some terms says little about the rest.
    std::vector<HeldTerm> choose_terms() const {
        const Effort& effort = options_.effort;
        const bool partial = effort.mass < 1.0 || effort.budget_ns > 0;
        if (!partial || std::any_of(held_.begin(), held_.end(), [](const HeldTerm& h) { return h.weight < 0; })) return held_;
        std::vector<HeldTerm> sorted = held_;
        std::stable_sort(sorted.begin(), sorted.end(), [&](const auto& a, const auto& b) { return bound(a) > bound(b); });
        double total = 0;
        for (const HeldTerm& held : held_) total += bound(held);
        double sum = 0;
        double cost_ns = 0;
        std::size_t n = 0;
        for (; n < sorted.size() && sum < effort.mass * total; ++n) {
            cost_ns += predicted_ns(sorted[n]);
            if (effort.budget_ns > 0 && n > 0 && cost_ns > 0.7 * double(effort.budget_ns)) break;
            sum += bound(sorted[n]);
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

    bool late() const {
        return options_.effort.budget_ns > 0 &&
               std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - began_).count() > options_.effort.budget_ns;
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
        const int32_t slack = largest_error(held_);
        // Where terms are too many for their rounding to leave anything of 15 bits, 32 bits it is.
        if (slack < kLargestSum / 4) {
            work_.mode = 0;
            const double unit = choose_unit(held_);
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
        const double unit = choose_unit(strongest);
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
        for (const HeldTerm& held : held_) rest += bound(held);
        for (const HeldTerm& held : strongest) rest -= bound(held);
        const double mean = sum / n;
        const double reach = mean + effort.deviations * std::sqrt(std::max(0.0, squares / n - mean * mean));
        const double outside = candidates.least() + double(largest_error(strongest));  // more than any sum
        return outside / unit + std::min(rest, reach) <= hits.back().score;
    }

    // How many terms of each sign a passage can hold: positive ones make its sum too small, negative ones too large.
    std::pair<std::size_t, std::size_t> most_held(const std::vector<HeldTerm>& terms) const {
        const std::size_t most = postings_.most_terms;
        const auto negative = static_cast<std::size_t>(
            std::count_if(terms.begin(), terms.end(), [](const HeldTerm& held) { return held.weight < 0; }));
        return {std::min(most, terms.size() - negative), std::min(most, negative)};
    }

    // By how much the sums of two passages may be off against each other.
    int32_t largest_error(const std::vector<HeldTerm>& terms) const {
        const auto [positive, negative] = most_held(terms);
        return static_cast<int32_t>(std::min<std::size_t>(kErrorPerTerm * (positive + negative), INT16_MAX));
    }

    // What a score of 1 is in sums. The largest possible sum and the largest factor just fit.
    double choose_unit(const std::vector<HeldTerm>& terms) const {
        const auto [positive, negative] = most_held(terms);
        double largest = 1;
        std::vector<double> bounds[2];
        for (const HeldTerm& held : terms) {
            bounds[held.weight < 0].push_back(bound(held));
            largest = std::max(largest, double(std::abs(held.weight)));
        }
        const double sum = std::max({sum_of_largest(bounds[0], positive), sum_of_largest(bounds[1], negative), 1.0});
        return std::min(kLargestSum / sum, 65'535 / 256.0 / largest);
    }

    static double sum_of_largest(std::vector<double>& values, std::size_t n) {
        const auto end = values.begin() + static_cast<std::ptrdiff_t>(n);
        std::nth_element(values.begin(), end, values.end(), std::greater<>());
        return std::accumulate(values.begin(), end, 0.0);
    }

    std::vector<Cursor> open_cursors(const std::vector<HeldTerm>& terms, double unit) const {
        std::vector<Cursor> cursors(terms.size());
        for (std::size_t i = 0; i < terms.size(); ++i) {
            Cursor& cursor = cursors[i];
            cursor.held = terms[i];
            cursor.op = {static_cast<uint16_t>(std::abs(terms[i].weight) * unit * 256), terms[i].weight < 0};
            cursor.cell = postings_.cell_offsets[terms[i].term];
            cursor.cell_end = postings_.cell_offsets[terms[i].term + 1];
        }
        return cursors;
    }

    // Visits the windows of all blocks in which a term has a cell: window(first passage, window of the block). False if
    // the budget ran out before the end.
    template <class Window>
    bool for_each_window(std::vector<Cursor>& cursors, Window&& window) {
        for (uint32_t next = 0;;) {
            uint32_t block = UINT32_MAX;
            for (const Cursor& c : cursors) {
                if (c.cell < c.cell_end) block = std::min<uint32_t>(block, postings_.cell_blocks[c.cell]);
            }
            if (block == UINT32_MAX) return true;
            if (block < next) throw CorruptIndex("postings.cell_blocks: the blocks of a term do not ascend");
            next = block + 1;
            for (Cursor& c : cursors) {
                c.active = c.cell < c.cell_end && postings_.cell_blocks[c.cell] == block;
                if (!c.active) continue;
                c.open = open_cell(postings_, c.held.term, c.cell++);
                c.list_at = 0;
                c.bitmaps_seen = 0;
                c.next_bitmap = c.open.bitmaps;
            }
            for (uint32_t w = 0; w < kWindows; ++w) {
                const uint64_t first = uint64_t{block} * kBlock + w * kWindow;
                if (first >= postings_.n_passages()) break;
                options_.stop.check();
                if (late()) return false;
                const auto last = std::min<uint64_t>(first + kWindow, postings_.n_passages());
                if (documents_.any_allowed(static_cast<uint32_t>(first), static_cast<uint32_t>(last))) {
                    work_.passages += last - first;
                    window(static_cast<uint32_t>(first), static_cast<uint32_t>(last - first), w);
                } else {
                    for (Cursor& c : cursors) pass(c, w, [](const Bitmap&) {}, [&](uint32_t end) { return skip(c, end); });
                }
            }
        }
    }

    // Moves a cursor past a window: on_bitmap(bitmap), or on_list(end of the window's slots), which returns where in
    // the list it stopped.
    template <class OnBitmap, class OnList>
    void pass(Cursor& c, uint32_t w, OnBitmap&& on_bitmap, OnList&& on_list) {
        if (!c.active) return;
        if ((c.open.dense >> w & 1) != 0) {
            const Bitmap bitmap = bitmap_at(c.next_bitmap, load16(c.open.counts + 2 * c.bitmaps_seen++));
            // Wrong masks could make loads run on by a window: near the end of the data they are counted first.
            if (bitmap.impacts + kWindow + kPadding > postings_.data + postings_.n_bytes && !is_whole(bitmap)) {
                throw_corrupt(postings_, c.held.term, "a bitmap contradicts its count");
            }
            c.next_bitmap = bitmap.end();
            on_bitmap(bitmap);
        } else if (c.list_at < c.open.n_list) {
            c.list_at = on_list((w + 1) * kWindow);
        }
    }

    static uint32_t skip(const Cursor& c, uint32_t end) {
        uint32_t at = c.list_at;
        while (at < c.open.n_list && load16(c.open.slots + 2 * at) < end) ++at;
        return at;
    }

    bool scan(const std::vector<HeldTerm>& terms, double unit, Candidates& candidates) {
        const Kernels& kernels = kernels_of(options_.path);
        std::vector<Cursor> cursors = open_cursors(terms, unit);
        work_.terms = terms.size();
        scratch_.dirty = true;
        bool first_window = true;
        scratch_.runs.clear();
        scratch_.windows.clear();
        const bool whole = for_each_window(cursors, [&](uint32_t first, uint32_t width, uint32_t w) {
            scratch_.windows.push_back(first);
            for (Cursor& c : cursors) {
                Run& run = scratch_.runs.emplace_back();
                pass(c, w,
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
        std::vector<Cursor> cursors = open_cursors(held_, 0);
        Candidates candidates(options_.k, 0, std::max(0, options_.min_score) + 1, documents_);
        int32_t* const sums = scratch_.wide;
        scratch_.dirty = true;
        const bool whole = for_each_window(cursors, [&](uint32_t first, uint32_t width, uint32_t w) {
            for (Cursor& c : cursors) {
                const auto weight = static_cast<uint32_t>(c.held.weight);
                const auto add = [&](uint32_t slot, uint32_t impact) {
                    int32_t& sum = sums[slot & (kWindow - 1)];
                    sum = static_cast<int32_t>(static_cast<uint32_t>(sum) + weight * impact);
                };
                pass(c, w,
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
    Clock::time_point began_;
    std::vector<uint32_t> passages_;  // of the candidates that are being scored
};

}  // namespace

Hits topk_documents(const Postings& postings, const Query& query, const SearchOptions& options, Work& work) {
    return Search(postings, query, options, work).run();
}

}  // namespace sparsight
