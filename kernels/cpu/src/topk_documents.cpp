#include "topk_documents.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <string>

#if SPARSIGHT_X86
#include <immintrin.h>
#endif

namespace sparsight {
namespace {

// 8192 accumulators of 4 bytes are 32 KiB: two thirds of the first-level data cache of Intel server cores since 2019
// (48 KiB), all of it on older and AMD ones. Larger windows spill; smaller ones pay the look at every cursor more often.
// Measured on a core with 48 KiB, 200,000 passages, 24 terms: 2048 takes 12 % longer, 4096 and 16384 the same within the
// noise, 32768 10 % longer.
constexpr std::size_t kDefaultWindow = 8192;
// The scans take this many accumulators at once, so buffers are rounded up to it.
constexpr std::size_t kScanStep = 64;
constexpr uint32_t kExhausted = UINT32_MAX;  // no passage has this number: there are fewer than 2**32 - 1

// One term's way through its postings.
struct Cursor {
    uint64_t pos;
    uint64_t end;
    int32_t weight;
};

// --- scratch memory ---------------------------------------------------------------------------------------

// Kept per thread between searches. Accumulators are all zero whenever no search is running on the thread.
struct Scratch {
    std::unique_ptr<int32_t[]> storage;
    int32_t* sums = nullptr;  // 64-byte aligned
    std::size_t capacity = 0;
    bool dirty = false;
    std::vector<uint32_t> found;  // window-relative passages above the threshold
    std::vector<int32_t> found_scores;
    std::vector<Cursor> cursors;
    std::vector<uint32_t> next;  // of each cursor: its next passage, apart for a quick minimum
    TopK<int32_t> top;

    void prepare(std::size_t window) {
        const std::size_t need = (window + kScanStep - 1) / kScanStep * kScanStep;
        if (need > capacity) {
            capacity = 0;
            storage = std::make_unique<int32_t[]>(need + 16);
            const auto address = reinterpret_cast<std::uintptr_t>(storage.get());
            sums = reinterpret_cast<int32_t*>((address + 63) & ~std::uintptr_t{63});
            capacity = need;
            dirty = false;
        }
        if (dirty) std::memset(sums, 0, capacity * sizeof(int32_t));  // an exception left a window half done
        dirty = false;
        // Vector stores write whole registers, up to 16 entries beyond the last one counted.
        if (found.size() < capacity + 16) {
            found.resize(capacity + 16);
            found_scores.resize(capacity + 16);
        }
        cursors.clear();
        next.clear();
    }
};

thread_local Scratch thread_scratch;

// --- window scans -----------------------------------------------------------------------------------------

// Each finds the sums above the threshold, writes their positions and values in ascending order, returns how many, and
// leaves all n sums zero. n is a multiple of kScanStep.
using Scan = std::size_t (*)(int32_t* sums, std::size_t n, int32_t threshold, uint32_t* found, int32_t* scores);

std::size_t scan_portable(int32_t* sums, std::size_t n, int32_t threshold, uint32_t* found, int32_t* scores) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; i += kScanStep) {
        int32_t any = 0;  // a comparison and an or: baseline x86 has no maximum of signed 32-bit lanes
        for (std::size_t j = 0; j < kScanStep; ++j) any |= -static_cast<int32_t>(sums[i + j] > threshold);
        if (any != 0) {
            for (std::size_t j = 0; j < kScanStep; ++j) {
                found[count] = static_cast<uint32_t>(i + j);
                scores[count] = sums[i + j];
                count += sums[i + j] > threshold;
            }
        }
        std::memset(sums + i, 0, kScanStep * sizeof(int32_t));
    }
    return count;
}

#if SPARSIGHT_X86
SPARSIGHT_AVX2
std::size_t scan_avx2(int32_t* sums, std::size_t n, int32_t threshold, uint32_t* found, int32_t* scores) {
    const __m256i limit = _mm256_set1_epi32(threshold);
    const __m256i zero = _mm256_setzero_si256();
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; i += kScanStep) {
        __m256i* block = reinterpret_cast<__m256i*>(sums + i);
        uint64_t hits = 0;
        for (int j = 0; j < 8; ++j) {
            const __m256i above = _mm256_cmpgt_epi32(_mm256_load_si256(block + j), limit);
            hits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(above))))
                    << (8 * j);
        }
        for (; hits != 0; hits &= hits - 1) {
            const std::size_t at = i + static_cast<std::size_t>(std::countr_zero(hits));
            found[count] = static_cast<uint32_t>(at);
            scores[count] = sums[at];
            ++count;
        }
        for (int j = 0; j < 8; ++j) _mm256_store_si256(block + j, zero);
    }
    return count;
}

SPARSIGHT_AVX512
std::size_t scan_avx512(int32_t* sums, std::size_t n, int32_t threshold, uint32_t* found, int32_t* scores) {
    const __m512i limit = _mm512_set1_epi32(threshold);
    const __m512i zero = _mm512_setzero_si512();
    const __m512i step = _mm512_set1_epi32(16);
    __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; i += 16, places = _mm512_add_epi32(places, step)) {
        const __m512i values = _mm512_load_si512(sums + i);
        const __mmask16 above = _mm512_cmpgt_epi32_mask(values, limit);
        _mm512_store_si512(sums + i, zero);
        if (above != 0) {
            // Compress in a register and store it whole: the masked compress-store to memory is microcoded on Zen 4.
            _mm512_storeu_si512(found + count, _mm512_maskz_compress_epi32(above, places));
            _mm512_storeu_si512(scores + count, _mm512_maskz_compress_epi32(above, values));
            count += static_cast<std::size_t>(__builtin_popcount(above));
        }
    }
    return count;
}
#endif

Scan scan_of(Path path) {
#if SPARSIGHT_X86
    if (path == Path::avx512) return scan_avx512;
    if (path == Path::avx2) return scan_avx2;
#endif
    (void)path;
    return scan_portable;
}

// --- documents of passages --------------------------------------------------------------------------------

// Finds the document of a passage. Calls come with ascending passages, mostly close together.
class DocumentOf {
public:
    DocumentOf(const uint32_t* offsets, std::size_t n) : offsets_(offsets), n_(n) {}

    uint32_t operator()(uint32_t passage) {
        // Where every document has one passage the distance is the answer.
        const std::size_t guess = at_ + static_cast<std::size_t>(passage - offsets_[at_]);
        if (guess < n_ && holds(guess, passage)) {
            at_ = guess;
            return static_cast<uint32_t>(guess);
        }
        std::size_t low = offsets_[at_] <= passage ? at_ : 0;
        std::size_t high = low + 1;
        for (std::size_t step = 1; high < n_ && offsets_[high] <= passage; step *= 2) {
            low = high;
            high = std::min(n_, high + step);
        }
        high = std::min(high, n_);
        const uint32_t* above = std::upper_bound(offsets_ + low + 1, offsets_ + high, passage);
        const auto document = static_cast<std::size_t>(above - offsets_) - 1;
        if (!holds(document, passage)) {
            throw CorruptIndex("postings.passage_offsets: no document holds passage " + std::to_string(passage));
        }
        at_ = document;
        return static_cast<uint32_t>(document);
    }

private:
    bool holds(std::size_t document, uint32_t passage) const {
        return offsets_[document] <= passage && passage < offsets_[document + 1];
    }

    const uint32_t* offsets_;
    std::size_t n_;
    std::size_t at_ = 0;
};

bool allowed(const uint64_t* mask, uint32_t document) {
    return mask == nullptr || (mask[document / 64] >> (document % 64) & 1) != 0;
}

// The first allowed document at or after this one, or n.
std::size_t next_allowed(const uint64_t* mask, std::size_t document, std::size_t n) {
    std::size_t word = document / 64;
    const std::size_t words = (n + 63) / 64;
    for (uint64_t bits = mask[word] & (~uint64_t{0} << (document % 64));; bits = mask[word]) {
        if (bits != 0) return std::min(n, word * 64 + static_cast<std::size_t>(std::countr_zero(bits)));
        if (++word == words) return n;
    }
}

// --- the search -------------------------------------------------------------------------------------------

class Search {
public:
    Search(const Postings& postings, const Query& query, const SearchOptions& options)
        : scratch_(thread_scratch),
          postings_(postings),
          query_(query),
          options_(options),
          n_passages_(postings.passage_offsets[postings.n_documents]),
          // Never wider than the segment: the scan always covers a whole window.
          window_(std::min<std::size_t>(options.window == 0 ? kDefaultWindow : options.window,
                                        std::bit_ceil(std::max<std::size_t>(n_passages_, 1)))),
          document_of_(postings.passage_offsets, postings.n_documents) {}

    Hits run() {
        options_.stop.check();
        scratch_.prepare(window_);
        scratch_.top.reset(options_.k, std::max(0, options_.min_score));
        open_cursors();
        const Scan scan = scan_of(options_.path);
        for (uint32_t passage; (passage = nearest()) != kExhausted;) {
            options_.stop.check();
            if (passage >= n_passages_) {
                throw CorruptIndex("postings.passages: passage " + std::to_string(passage) + " of " +
                                   std::to_string(n_passages_));
            }
            const uint32_t base = passage & ~static_cast<uint32_t>(window_ - 1);
            if (query_.mask != nullptr && skip_masked(passage, base)) continue;
            scratch_.dirty = true;
            accumulate(base);
            const std::size_t padded = (window_ + kScanStep - 1) / kScanStep * kScanStep;
            const std::size_t count = scan(scratch_.sums, padded, scratch_.top.threshold(), scratch_.found.data(),
                                           scratch_.found_scores.data());
            scratch_.dirty = false;
            for (std::size_t i = 0; i < count; ++i) offer(base + scratch_.found[i], scratch_.found_scores[i]);
        }
        close_document();
        return scratch_.top.sorted();
    }

private:
    // Cursors of terms with postings, those with positive weights first: only they can lift a score above 0, so
    // they alone choose the windows.
    void open_cursors() {
        for (const bool positive : {true, false}) {
            const uint32_t* from = postings_.term_ids;
            const uint32_t* const last = postings_.term_ids + postings_.n_terms;
            for (std::size_t i = 0; i < query_.n_terms; ++i) {
                const int32_t weight = query_.weights[i];
                if (weight == 0 || (weight > 0) != positive) continue;
                from = std::lower_bound(from, last, query_.terms[i]);
                if (from == last) break;
                if (*from == query_.terms[i]) open_cursor(static_cast<std::size_t>(from - postings_.term_ids), weight);
            }
            if (positive) n_positive_ = scratch_.cursors.size();
        }
    }

    void open_cursor(std::size_t term, int32_t weight) {
        const uint64_t start = postings_.offsets[term];
        const uint64_t end = postings_.offsets[term + 1];
        if (start > end || end > postings_.n_postings) {
            throw CorruptIndex("postings.offsets: term " + std::to_string(postings_.term_ids[term]) + " has range [" +
                               std::to_string(start) + ", " + std::to_string(end) + ")");
        }
        if (start == end) return;
        scratch_.cursors.push_back({start, end, weight});
        scratch_.next.push_back(postings_.passages[start]);
    }

    // The nearest passage that a positive term has ahead.
    uint32_t nearest() const {
        uint32_t lowest = kExhausted;
        for (std::size_t i = 0; i < n_positive_; ++i) lowest = std::min(lowest, scratch_.next[i]);
        return lowest;
    }

    // Moves a cursor to its first posting at or after `passage`, by doubling steps.
    void seek(std::size_t i, uint32_t passage) {
        Cursor& cursor = scratch_.cursors[i];
        const uint32_t* const passages = postings_.passages;
        uint64_t low = cursor.pos;
        uint64_t high = low;
        for (uint64_t step = 1; high < cursor.end && passages[high] < passage; step *= 2) {
            low = high + 1;
            high = std::min(cursor.end, high + step);
        }
        cursor.pos = static_cast<uint64_t>(std::lower_bound(passages + low, passages + high, passage) - passages);
        scratch_.next[i] = cursor.pos < cursor.end ? passages[cursor.pos] : kExhausted;
    }

    // If no document of the rest of this window may be returned, moves the positive terms to the next one that may.
    bool skip_masked(uint32_t passage, uint32_t base) {
        const std::size_t document = next_allowed(query_.mask, document_of_(passage), postings_.n_documents);
        // Without one, past the end: every cursor runs out.
        const uint32_t first = document == postings_.n_documents
                                   ? kExhausted
                                   : std::max(passage, postings_.passage_offsets[document]);
        if (first - base < window_) return false;
        for (std::size_t i = 0; i < n_positive_; ++i) {
            if (scratch_.next[i] < first) seek(i, first);
        }
        return true;
    }

    // Adds up every term's postings within [base, base + window).
    void accumulate(uint32_t base) {
        const auto width = static_cast<uint32_t>(std::min<uint64_t>(window_, uint64_t{n_passages_} - base));
        for (std::size_t i = 0; i < scratch_.cursors.size(); ++i) {
            if (scratch_.next[i] < base) seek(i, base);  // a negative term that sat out some windows
            if (scratch_.next[i] - base >= width) continue;
            advance(i, base, width);
        }
    }

    void advance(std::size_t i, uint32_t base, uint32_t width) {
        Cursor& cursor = scratch_.cursors[i];
        const uint32_t* const passages = postings_.passages;
        const uint8_t* const impacts = postings_.impacts;
        int32_t* const sums = scratch_.sums;
        // Unsigned arithmetic: a term that names one passage again and again may wrap, which must not be undefined.
        const auto weight = static_cast<uint32_t>(cursor.weight);
        const auto inside = static_cast<uint32_t>(window_ - 1);
        const auto add = [&](uint64_t at) {
            // The mask keeps the write inside the window whatever the file holds; that is why windows are powers of two.
            int32_t& sum = sums[(passages[at] - base) & inside];
            sum = static_cast<int32_t>(static_cast<uint32_t>(sum) + weight * impacts[at]);
        };
        uint64_t pos = cursor.pos;
        // Ascending passages: if the fourth is inside, so are three before it.
        for (; pos + 4 <= cursor.end && passages[pos + 3] - base < width; pos += 4) {
            add(pos);
            add(pos + 1);
            add(pos + 2);
            add(pos + 3);
        }
        for (; pos < cursor.end && passages[pos] - base < width; ++pos) add(pos);
        cursor.pos = pos;
        scratch_.next[i] = pos < cursor.end ? passages[pos] : kExhausted;
        // Behind the window means not ascending. Ahead of it is where the search goes next, so it cannot loop.
        if (scratch_.next[i] < base) throw CorruptIndex("postings.passages: passages of a term do not ascend");
    }

    // Takes a passage above the threshold. Passages ascend, so those of one document follow each other, also from
    // one window to the next.
    void offer(uint32_t passage, int32_t score) {
        if (score <= scratch_.top.threshold()) return;  // it rose since the scan
        if (passage >= n_passages_) throw CorruptIndex("postings.passages: passages of a term do not ascend");
        if (open_ && passage < postings_.passage_offsets[best_.id + 1]) {
            if (score > best_.score) best_ = {score, best_.id, passage};  // equal: the lower passage stays
            return;
        }
        const uint32_t document = document_of_(passage);
        if (!allowed(query_.mask, document)) return;
        close_document();
        best_ = {score, document, passage};
        open_ = true;
    }

    void close_document() {
        if (open_) scratch_.top.offer(best_);
        open_ = false;
    }

    Scratch& scratch_;  // looked up once: every use of a thread_local in a shared library is a call
    const Postings& postings_;
    const Query& query_;
    const SearchOptions& options_;
    const uint32_t n_passages_;
    const std::size_t window_;
    DocumentOf document_of_;
    std::size_t n_positive_ = 0;
    Scored<int32_t> best_{};  // the document whose passages are passing by
    bool open_ = false;
};

}  // namespace

Hits topk_documents(const Postings& postings, const Query& query, const SearchOptions& options) {
    return Search(postings, query, options).run();
}

}  // namespace sparsight
