#include "dots.hpp"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"

#if SPARSIGHT_X86
#include <immintrin.h>
#endif

namespace sparsight {
namespace {

// A table of int16 weights by term up to this many terms is 8 MiB a thread; beyond, rows and query are merged.
constexpr std::size_t kTableTerms = std::size_t{1} << 22;

std::pair<uint64_t, uint64_t> range_of(const Rows& rows, std::size_t i) {
    const std::size_t row = rows.chosen == nullptr ? i : rows.chosen[i];
    const uint64_t start = rows.indptr[row];
    const uint64_t end = rows.indptr[row + 1];
    if (start > end || end > rows.nnz) {
        throw CorruptIndex("indptr: row " + std::to_string(row) + " has range [" + std::to_string(start) + ", " +
                           std::to_string(end) + ") of " + std::to_string(rows.nnz) + " entries");
    }
    return {start, end};
}

// Calls match(entry, position in the query) for every id that a row and the query share. Both ascend.
template <class Match>
void merge(const uint32_t* ids, uint64_t start, uint64_t end, const uint32_t* query, std::size_t n, Match&& match) {
    std::size_t j = 0;
    for (uint64_t i = start; i < end && j < n;) {
        const uint32_t left = ids[i];
        const uint32_t right = query[j];
        if (left == right) match(i, j);
        i += left <= right;
        j += right <= left;
    }
}

// Weights by term, all zero between calls.
struct WeightTable {
    std::vector<int16_t> weights;
};
thread_local WeightTable thread_table;

// --- float16 ----------------------------------------------------------------------------------------------

float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 0x1Fu;
    const uint32_t fraction = half & 0x3FFu;
    if (exponent == 0) {  // zero or subnormal: fraction * 2**-24, exact in float
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
    }
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);  // infinity or NaN
    return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

void widen_portable(const uint16_t* halves, std::size_t n, float* out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = half_to_float(halves[i]);
}

#if SPARSIGHT_X86
SPARSIGHT_AVX2
void widen_f16c(const uint16_t* halves, std::size_t n, float* out) {
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(packed));
    }
    for (; i < n; ++i) out[i] = _cvtsh_ss(halves[i]);
}
#endif

// The values of one row at a time as float32.
class RowValues {
public:
    RowValues(const Values& values, Path path) : values_(values), path_(path) {}

    const float* operator()(uint64_t start, uint64_t end) {
        if (values_.f16 == nullptr) return values_.f32 + start;
        const auto n = static_cast<std::size_t>(end - start);
        if (wide_.size() < n) wide_.resize(n);
#if SPARSIGHT_X86
        if (path_ != Path::portable) {
            widen_f16c(values_.f16 + start, n, wide_.data());
            return wide_.data();
        }
#endif
        widen_portable(values_.f16 + start, n, wide_.data());
        return wide_.data();
    }

private:
    const Values& values_;
    const Path path_;
    std::vector<float> wide_;
};

}  // namespace

void score_passages(const Rows& rows, const uint8_t* impacts, const uint32_t* terms, const int16_t* weights,
                    std::size_t n_terms, int32_t* out) {
    if (n_terms == 0 || terms[n_terms - 1] >= kTableTerms) {
        for (std::size_t i = 0; i < rows.n_chosen; ++i) {
            const auto [start, end] = range_of(rows, i);
            uint32_t sum = 0;  // unsigned: a damaged row may wrap, which must not be undefined
            merge(rows.ids, start, end, terms, n_terms, [&](uint64_t entry, std::size_t j) {
                sum += static_cast<uint32_t>(weights[j]) * impacts[entry];
            });
            out[i] = static_cast<int32_t>(sum);
        }
        return;
    }
    std::vector<int16_t>& table = thread_table.weights;
    const std::size_t size = std::size_t{terms[n_terms - 1]} + 1;
    if (table.size() < size) table.resize(size);
    struct Clear {
        std::vector<int16_t>& table;
        const uint32_t* terms;
        std::size_t n;
        ~Clear() {
            for (std::size_t j = 0; j < n; ++j) table[terms[j]] = 0;
        }
    } const clear{table, terms, n_terms};
    for (std::size_t j = 0; j < n_terms; ++j) table[terms[j]] = weights[j];
    for (std::size_t i = 0; i < rows.n_chosen; ++i) {
        const auto [start, end] = range_of(rows, i);
        uint32_t sum = 0;
        for (uint64_t entry = start; entry < end; ++entry) {
            const uint32_t term = rows.ids[entry];
            if (term < size) sum += static_cast<uint32_t>(table[term]) * impacts[entry];
        }
        out[i] = static_cast<int32_t>(sum);
    }
}

void sparse_dot_sparse(const Rows& rows, const Values& values, const uint32_t* q_ids, const float* q_values,
                       std::size_t q_length, Path path, float* out) {
    RowValues row_values(values, path);
    for (std::size_t i = 0; i < rows.n_chosen; ++i) {
        const auto [start, end] = range_of(rows, i);
        const float* const row = row_values(start, end);
        const uint64_t first = start;
        double sum = 0;
        merge(rows.ids, start, end, q_ids, q_length, [&](uint64_t entry, std::size_t j) {
            sum += static_cast<double>(row[entry - first]) * static_cast<double>(q_values[j]);
        });
        out[i] = static_cast<float>(sum);
    }
}

void sparse_dot_dense(const Rows& rows, const Values& values, const float* q, std::size_t q_length, Path path,
                      float* out) {
    RowValues row_values(values, path);
    for (std::size_t i = 0; i < rows.n_chosen; ++i) {
        const auto [start, end] = range_of(rows, i);
        const float* const row = row_values(start, end);
        double sum = 0;
        for (uint64_t entry = start; entry < end; ++entry) {
            const uint32_t id = rows.ids[entry];
            if (id >= q_length) {
                throw CorruptIndex("ids: expected ids below " + std::to_string(q_length) + ", the query's length; found " +
                                   std::to_string(id));
            }
            sum += static_cast<double>(row[entry - start]) * static_cast<double>(q[id]);
        }
        out[i] = static_cast<float>(sum);
    }
}

}  // namespace sparsight
