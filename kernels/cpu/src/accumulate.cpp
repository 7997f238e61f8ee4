#include "accumulate.hpp"

#include <algorithm>
#include <array>
#include <bit>

#if SPARSIGHT_X86
#include <immintrin.h>
#endif

namespace sparsight {
namespace {

// --- portable ---------------------------------------------------------------------------------------------

inline void add_one(int16_t& sum, uint32_t impact, Term16 term) {
    const auto amount = static_cast<int>(term.factor * impact >> 8);
    sum = static_cast<int16_t>(term.negative ? sum - amount : sum + amount);
}

void add_bitmap_portable(int16_t* sums, const Bitmap& bitmap, Term16 term) {
    const uint8_t* impact = bitmap.impacts;
    for (uint32_t g = 0; g < kGroups; ++g, sums += kGroup) {
        for (uint64_t bits = load64(bitmap.masks + 8 * g); bits != 0; bits &= bits - 1) {
            add_one(sums[slot_of(static_cast<uint32_t>(std::countr_zero(bits)))], *impact++, term);
        }
    }
}

uint32_t add_list_any(int16_t* sums, const uint8_t* slots, const uint8_t* impacts, uint32_t at, uint32_t n,
                      uint32_t end, Term16 term) {
    const auto add = [&](uint32_t i) {
        // The mask keeps the write inside the window whatever the file holds.
        add_one(sums[load16(slots + 2 * i) & (kWindow - 1)], impacts[i], term);
    };
    // Ascending slots: if the fourth is inside, so are the three before it.
    for (; at + 4 <= n && load16(slots + 2 * (at + 3)) < end; at += 4) {
        add(at);
        add(at + 1);
        add(at + 2);
        add(at + 3);
    }
    for (; at < n && load16(slots + 2 * at) < end; ++at) add(at);
    return at;
}

std::size_t collect_portable(int16_t* sums, uint32_t groups, int16_t least, const uint64_t* allowed,
          uint16_t* passages, int16_t* found) {
    std::size_t count = 0;
    for (uint32_t g = 0; g < groups; ++g, sums += kGroup) {
        int any = 0;
        for (uint32_t s = 0; s < kGroup; ++s) any |= sums[s] >= least;
        if (any != 0) {
            const uint64_t mask = allowed == nullptr ? ~uint64_t{0} : allowed[g];
            for (uint32_t p = 0; p < kGroup; ++p) {
                const int16_t sum = sums[slot_of(p)];
                if (sum < least || (mask >> p & 1) == 0) continue;
                passages[count] = static_cast<uint16_t>(g * kGroup + p);
                found[count++] = sum;
            }
        }
        std::fill_n(sums, kGroup, int16_t{0});
    }
    return count;
}

void group_maxima_portable(const int16_t* sums, int16_t* maxima) {
    for (uint32_t g = 0; g < kGroups; ++g) maxima[g] = *std::max_element(sums + g * kGroup, sums + (g + 1) * kGroup);
}

constexpr Kernels kPortable{add_bitmap_portable, add_list_any, collect_portable, group_maxima_portable};

#if SPARSIGHT_X86

// Writes what a group's comparison found: low half of `above` the even passages, high half the odd ones.
__attribute__((target("bmi2"))) inline std::size_t write_found(uint64_t above, const int16_t* sums, uint32_t group,
                                                               const uint64_t* allowed, uint16_t* passages,
                                                               int16_t* found) {
    uint64_t bits = _pdep_u64(above & 0xFFFFFFFFu, 0x5555555555555555u) | _pdep_u64(above >> 32, 0xAAAAAAAAAAAAAAAAu);
    if (allowed != nullptr) bits &= allowed[group];
    std::size_t count = 0;
    for (; bits != 0; bits &= bits - 1) {
        const auto passage = static_cast<uint32_t>(std::countr_zero(bits));
        passages[count] = static_cast<uint16_t>(group * kGroup + passage);
        found[count++] = sums[slot_of(passage)];
    }
    return count;
}

// --- AVX2 -------------------------------------------------------------------------------------------------

// For every byte of a mask: where each of its 8 passages finds its impact among the next ones; 0x80 gives zero.
constexpr auto kExpand = [] {
    std::array<std::array<uint8_t, 8>, 256> table{};
    for (unsigned mask = 0; mask < 256; ++mask) {
        uint8_t next = 0;
        for (unsigned bit = 0; bit < 8; ++bit) table[mask][bit] = (mask >> bit & 1) != 0 ? next++ : 0x80;
    }
    return table;
}();

template <bool negative>
SPARSIGHT_AVX2 void add_bitmap_avx2_as(int16_t* sums, const Bitmap& bitmap, uint16_t factor) {
    const __m256i q = _mm256_set1_epi16(static_cast<int16_t>(factor));
    const __m256i high = _mm256_set1_epi16(static_cast<int16_t>(0xFF00));
    const uint8_t* impact = bitmap.impacts;
    for (uint32_t g = 0; g < kGroups; ++g, sums += kGroup) {
        const uint64_t mask = load64(bitmap.masks + 8 * g);
        if (mask == 0) continue;
        // Set bits of each byte, then how many lie before it: 8 independent loads instead of a chain.
        uint64_t bits = mask - (mask >> 1 & 0x5555555555555555u);
        bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
        bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
        const uint64_t total = bits * 0x0101010101010101u;
        const uint64_t before = total << 8;
        for (unsigned half = 0; half < 2; ++half) {
            __m128i quarter[2];
            for (unsigned j = 0; j < 2; ++j) {
                __m128i eight[2];
                for (unsigned i = 0; i < 2; ++i) {
                    const unsigned byte = half * 4 + j * 2 + i;
                    const auto* const from = impact + (before >> (8 * byte) & 0xFF);
                    const __m128i table =
                        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpand[mask >> (8 * byte) & 0xFF].data()));
                    eight[i] = _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)), table);
                }
                quarter[j] = _mm_unpacklo_epi64(eight[0], eight[1]);
            }
            const __m256i v = _mm256_set_m128i(quarter[1], quarter[0]);
            const __m256i amounts[2] = {_mm256_mulhi_epu16(_mm256_slli_epi16(v, 8), q),
                                        _mm256_mulhi_epu16(_mm256_and_si256(v, high), q)};
            for (unsigned odd = 0; odd < 2; ++odd) {
                auto* const at = reinterpret_cast<__m256i*>(sums + odd * 32 + half * 16);
                const __m256i sum = _mm256_load_si256(at);
                _mm256_store_si256(at, negative ? _mm256_sub_epi16(sum, amounts[odd])
                                                : _mm256_add_epi16(sum, amounts[odd]));
            }
        }
        impact += total >> 56;
    }
}

void add_bitmap_avx2(int16_t* sums, const Bitmap& bitmap, Term16 term) {
    if (term.negative) add_bitmap_avx2_as<true>(sums, bitmap, term.factor);
    else add_bitmap_avx2_as<false>(sums, bitmap, term.factor);
}

SPARSIGHT_AVX2 std::size_t collect_avx2(int16_t* sums, uint32_t groups, int16_t least, const uint64_t* allowed,
          uint16_t* passages, int16_t* found) {
    const __m256i limit = _mm256_set1_epi16(static_cast<int16_t>(least - 1));
    std::size_t count = 0;
    for (uint32_t g = 0; g < groups; ++g, sums += kGroup) {
        auto* const at = reinterpret_cast<__m256i*>(sums);
        __m256i above[4];
        for (int i = 0; i < 4; ++i) above[i] = _mm256_cmpgt_epi16(_mm256_load_si256(at + i), limit);
        if (_mm256_testz_si256(_mm256_or_si256(_mm256_or_si256(above[0], above[1]), _mm256_or_si256(above[2], above[3])),
                               _mm256_set1_epi8(-1)) == 0) {
            uint64_t bits = 0;
            for (int i = 0; i < 4; ++i) {
                const auto lanes = static_cast<uint32_t>(_mm256_movemask_epi8(above[i]));
                bits |= static_cast<uint64_t>(_pext_u32(lanes, 0x55555555u)) << (16 * i);
            }
            count += write_found(bits, sums, g, allowed, passages + count, found + count);
        }
        for (int i = 0; i < 4; ++i) _mm256_store_si256(at + i, _mm256_setzero_si256());
    }
    return count;
}

constexpr Kernels kAvx2{add_bitmap_avx2, add_list_any, collect_avx2, group_maxima_portable};

// --- AVX-512 ----------------------------------------------------------------------------------------------

template <bool negative>
SPARSIGHT_AVX512 void add_bitmap_avx512_as(int16_t* sums, const Bitmap& bitmap, uint16_t factor) {
    const __m512i q = _mm512_set1_epi16(static_cast<int16_t>(factor));
    const __m512i high = _mm512_set1_epi16(static_cast<int16_t>(0xFF00));
    const uint8_t* impact = bitmap.impacts;
    // The term's next window lies right behind; by the time it is its turn the other terms' windows have passed, and
    // the processor has lost the trail. (Prefetches of places beyond the data do nothing.)
    const std::size_t ahead = kRankBytes + kMaskBytes + bitmap.count;
    for (uint32_t g = 0; g < kGroups; ++g, sums += kGroup) {
        const uint64_t mask = load64(bitmap.masks + 8 * g);
        if (g % 8 == 0) _mm_prefetch(reinterpret_cast<const char*>(bitmap.masks + 8 * g + ahead), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(impact + ahead), _MM_HINT_T1);
        const __m512i v = _mm512_maskz_expand_epi8(mask, _mm512_loadu_si512(impact));
        impact += __builtin_popcountll(mask);
        const __m512i even = _mm512_mulhi_epu16(_mm512_slli_epi16(v, 8), q);
        const __m512i odd = _mm512_mulhi_epu16(_mm512_and_si512(v, high), q);
        const __m512i a = _mm512_load_si512(sums);
        const __m512i b = _mm512_load_si512(sums + 32);
        _mm512_store_si512(sums, negative ? _mm512_sub_epi16(a, even) : _mm512_add_epi16(a, even));
        _mm512_store_si512(sums + 32, negative ? _mm512_sub_epi16(b, odd) : _mm512_add_epi16(b, odd));
    }
}

void add_bitmap_avx512(int16_t* sums, const Bitmap& bitmap, Term16 term) {
    if (term.negative) add_bitmap_avx512_as<true>(sums, bitmap, term.factor);
    else add_bitmap_avx512_as<false>(sums, bitmap, term.factor);
}

// The amounts of 32 postings at a time; what remains for each is an addition to memory.
SPARSIGHT_AVX512 uint32_t add_list_avx512(int16_t* sums, const uint8_t* slots, const uint8_t* impacts, uint32_t at,
                                          uint32_t n, uint32_t end, Term16 term) {
    alignas(64) uint16_t place[32];
    alignas(64) int16_t amount[32];
    const __m512i q = _mm512_set1_epi16(static_cast<int16_t>(term.factor));
    const __m512i last = _mm512_set1_epi16(static_cast<int16_t>(end - 1));
    const __m512i inside = _mm512_set1_epi16(kWindow - 1);  // keeps writes in the window whatever the file holds
    const __m512i zero = _mm512_setzero_si512();
    while (at < n) {
        const __m512i slot = _mm512_loadu_si512(slots + 2 * at);
        const uint64_t beyond = static_cast<uint64_t>(~_mm512_cmple_epu16_mask(slot, last)) | uint64_t{1} << 32;
        const uint32_t count = std::min(static_cast<uint32_t>(std::countr_zero(beyond)), n - at);
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(impacts + at));
        const __m512i sum = _mm512_mulhi_epu16(_mm512_slli_epi16(_mm512_cvtepu8_epi16(bytes), 8), q);
        _mm512_store_si512(place, _mm512_and_si512(slot, inside));
        _mm512_store_si512(amount, term.negative ? _mm512_sub_epi16(zero, sum) : sum);
        if (count == 32) {
            for (uint32_t i = 0; i < 32; ++i) sums[place[i]] = static_cast<int16_t>(sums[place[i]] + amount[i]);
        } else {
            for (uint32_t i = 0; i < count; ++i) sums[place[i]] = static_cast<int16_t>(sums[place[i]] + amount[i]);
            return at + count;
        }
        at += 32;
    }
    return at;
}

SPARSIGHT_AVX512 std::size_t collect_avx512(int16_t* sums, uint32_t groups, int16_t least, const uint64_t* allowed,
          uint16_t* passages, int16_t* found) {
    const __m512i limit = _mm512_set1_epi16(static_cast<int16_t>(least - 1));
    const __m512i zero = _mm512_setzero_si512();
    std::size_t count = 0;
    for (uint32_t g = 0; g < groups; ++g, sums += kGroup) {
        const uint64_t above = static_cast<uint64_t>(_mm512_cmpgt_epi16_mask(_mm512_load_si512(sums), limit)) |
                               static_cast<uint64_t>(_mm512_cmpgt_epi16_mask(_mm512_load_si512(sums + 32), limit)) << 32;
        if (above != 0) count += write_found(above, sums, g, allowed, passages + count, found + count);
        _mm512_store_si512(sums, zero);
        _mm512_store_si512(sums + 32, zero);
    }
    return count;
}

SPARSIGHT_AVX512 void group_maxima_avx512(const int16_t* sums, int16_t* maxima) {
    for (uint32_t g = 0; g < kGroups; ++g, sums += kGroup) {
        const __m512i larger = _mm512_max_epi16(_mm512_load_si512(sums), _mm512_load_si512(sums + 32));
        const __m256i m16 = _mm256_max_epi16(_mm512_maskz_extracti64x4_epi64(0xF, larger, 0),
                                             _mm512_maskz_extracti64x4_epi64(0xF, larger, 1));
        const __m128i m8 = _mm_max_epi16(_mm256_castsi256_si128(m16), _mm256_extracti128_si256(m16, 1));
        // The smallest of unsigned lanes is what the processor has: turn the order around.
        const __m128i turned = _mm_sub_epi16(_mm_set1_epi16(32767), m8);
        maxima[g] = static_cast<int16_t>(32767 - _mm_cvtsi128_si32(_mm_minpos_epu16(turned)) % 65536);
    }
}

constexpr Kernels kAvx512{add_bitmap_avx512, add_list_avx512, collect_avx512, group_maxima_avx512};

#endif

}  // namespace

const Kernels& kernels_of(Path path) {
#if SPARSIGHT_X86
    if (path == Path::avx512) return kAvx512;
    if (path == Path::avx2) return kAvx2;
#endif
    (void)path;
    return kPortable;
}

}  // namespace sparsight
