#include "build_postings.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "postings.hpp"
#include "work_queue.hpp"

namespace sparsight {
namespace {

constexpr uint32_t kTableTerms = 1u << 24;  // below that many dimensions a table turns terms into ranks

// Ranks of terms among those that occur.
class TermRanks {
public:
    explicit TermRanks(const RowsIn& rows) {
        const uint64_t n = rows.indptr[rows.n_rows];
        uint32_t top = 0;
        for (uint64_t i = 0; i < n; ++i) top = std::max(top, rows.term_ids[i]);
        if (top < kTableTerms) {
            table_.assign(n == 0 ? 0 : std::size_t{top} + 1, 0);
            for (uint64_t i = 0; i < n; ++i) table_[rows.term_ids[i]] |= rows.impacts[i] != 0;
            for (std::size_t t = 0; t < table_.size(); ++t) {
                if (table_[t] == 0) continue;
                table_[t] = static_cast<uint32_t>(terms_.size());
                terms_.push_back(static_cast<uint32_t>(t));
            }
            return;
        }
        for (uint64_t i = 0; i < n; ++i) {
            if (rows.impacts[i] != 0) terms_.push_back(rows.term_ids[i]);
        }
        std::sort(terms_.begin(), terms_.end());
        terms_.erase(std::unique(terms_.begin(), terms_.end()), terms_.end());
    }

    uint32_t operator[](uint32_t term) const {
        if (!table_.empty()) return table_[term];
        return static_cast<uint32_t>(std::lower_bound(terms_.begin(), terms_.end(), term) - terms_.begin());
    }

    std::vector<uint32_t>& terms() { return terms_; }

private:
    std::vector<uint32_t> table_;
    std::vector<uint32_t> terms_;
};

struct EncodedCell {
    uint32_t rank;  // of the term
    uint32_t count;
    uint32_t bytes;
    uint8_t max_impact;
};

struct EncodedBlock {
    std::vector<EncodedCell> cells;  // by rank
    std::vector<uint8_t> data;
};

void append16(std::vector<uint8_t>& out, uint32_t value) {
    out.push_back(static_cast<uint8_t>(value));
    out.push_back(static_cast<uint8_t>(value >> 8));
}

// One cell from a term's ascending passages within a block, and their impacts.
EncodedCell encode_cell(const uint16_t* passages, const uint8_t* impacts, std::size_t n, std::vector<uint8_t>& out) {
    const std::size_t start = out.size();
    uint32_t cuts[kWindows + 1] = {};
    for (std::size_t i = 0; i < n; ++i) ++cuts[passages[i] / kWindow + 1];
    uint32_t dense = 0;
    uint32_t n_list = 0;
    for (uint32_t w = 0; w < kWindows; ++w) {
        if (cuts[w + 1] >= kDense) dense |= 1u << w;
        else n_list += cuts[w + 1];
    }
    append16(out, n_list);
    out.push_back(static_cast<uint8_t>(dense));
    out.push_back(0);
    for (uint32_t w = 0; w < kWindows; ++w) {
        if (dense >> w & 1) append16(out, cuts[w + 1]);
        cuts[w + 1] += cuts[w];
    }
    // The list, by slot: passages ascend, so only those of one group of 64 change places.
    std::pair<uint16_t, uint8_t> group[kGroup];
    std::vector<uint8_t> list_impacts;
    list_impacts.reserve(n_list);
    for (uint32_t w = 0; w < kWindows; ++w) {
        if (dense >> w & 1) continue;
        for (uint32_t i = cuts[w]; i < cuts[w + 1];) {
            std::size_t size = 0;
            const uint32_t of = passages[i] / kGroup;
            for (; i < cuts[w + 1] && passages[i] / kGroup == of; ++i) {
                group[size++] = {static_cast<uint16_t>(slot_of(passages[i])), impacts[i]};
            }
            std::sort(group, group + size);
            for (std::size_t j = 0; j < size; ++j) {
                append16(out, group[j].first);
                list_impacts.push_back(group[j].second);
            }
        }
    }
    out.insert(out.end(), list_impacts.begin(), list_impacts.end());
    for (uint32_t w = 0; w < kWindows; ++w) {
        if ((dense >> w & 1) == 0) continue;
        uint64_t masks[kGroups] = {};
        for (uint32_t i = cuts[w]; i < cuts[w + 1]; ++i) {
            masks[passages[i] % kWindow / kGroup] |= uint64_t{1} << (passages[i] % kGroup);
        }
        uint32_t rank = 0;
        for (uint32_t g = 0; g < kGroups; ++g) {
            if (g % kRankStep == 0) append16(out, rank);
            rank += static_cast<uint32_t>(__builtin_popcountll(masks[g]));
        }
        const auto* const bytes = reinterpret_cast<const uint8_t*>(masks);
        out.insert(out.end(), bytes, bytes + kMaskBytes);
        out.insert(out.end(), impacts + cuts[w], impacts + cuts[w + 1]);
    }
    return {0, static_cast<uint32_t>(n), static_cast<uint32_t>(out.size() - start), *std::max_element(impacts, impacts + n)};
}

EncodedBlock encode_block(const RowsIn& rows, const TermRanks& ranks, std::size_t n_terms, std::size_t block) {
    const std::size_t first = block * kBlock;
    const std::size_t last = std::min(rows.n_rows, first + kBlock);
    const uint64_t begin = rows.indptr[first];
    const uint64_t end = rows.indptr[last];
    std::vector<uint32_t> starts(n_terms + 1, 0);
    for (uint64_t i = begin; i < end; ++i) {
        if (rows.impacts[i] != 0) ++starts[ranks[rows.term_ids[i]] + 1];
    }
    for (std::size_t t = 0; t < n_terms; ++t) starts[t + 1] += starts[t];
    std::vector<uint16_t> passages(starts[n_terms]);
    std::vector<uint8_t> impacts(starts[n_terms]);
    std::vector<uint32_t> next(starts.begin(), starts.end() - 1);
    for (std::size_t row = first; row < last; ++row) {
        for (uint64_t i = rows.indptr[row]; i < rows.indptr[row + 1]; ++i) {
            if (rows.impacts[i] == 0) continue;
            const uint32_t rank = ranks[rows.term_ids[i]];
            const uint32_t at = next[rank]++;
            passages[at] = static_cast<uint16_t>(row - first);
            if (at > starts[rank] && passages[at - 1] == passages[at]) {
                throw std::invalid_argument("rows: row " + std::to_string(row) + " repeats term " +
                                            std::to_string(rows.term_ids[i]));
            }
            impacts[at] = rows.impacts[i];
        }
    }
    EncodedBlock made;
    made.data.reserve(passages.size() * 3);
    for (std::size_t t = 0; t < n_terms; ++t) {
        const uint32_t n = starts[t + 1] - starts[t];
        if (n == 0) continue;
        made.cells.push_back(encode_cell(passages.data() + starts[t], impacts.data() + starts[t], n, made.data));
        made.cells.back().rank = static_cast<uint32_t>(t);
    }
    return made;
}

}  // namespace

PostingsOut build_postings(const RowsIn& rows, std::size_t threads) {
    if (rows.n_rows > uint64_t{1} << 32) throw std::length_error("postings: at most 2**32 passages");
    TermRanks ranks(rows);
    const std::size_t n_terms = ranks.terms().size();
    const std::size_t n_blocks = (rows.n_rows + kBlock - 1) / kBlock;
    std::vector<EncodedBlock> blocks(n_blocks);
    for_each_item(n_blocks, threads, [&](std::size_t b) { blocks[b] = encode_block(rows, ranks, n_terms, b); });

    PostingsOut out;
    out.term_ids = std::move(ranks.terms());
    out.frequencies.assign(n_terms, 0);
    out.max_impacts.assign(n_terms, 0);
    out.cell_offsets.assign(n_terms + 1, 0);
    out.byte_offsets.assign(n_terms + 1, 0);
    for (const EncodedBlock& block : blocks) {
        for (const EncodedCell& cell : block.cells) {
            out.frequencies[cell.rank] += cell.count;
            out.max_impacts[cell.rank] = std::max(out.max_impacts[cell.rank], cell.max_impact);
            ++out.cell_offsets[cell.rank + 1];
            out.byte_offsets[cell.rank + 1] += cell.bytes;
        }
    }
    for (std::size_t t = 0; t < n_terms; ++t) {
        if (out.byte_offsets[t + 1] > UINT32_MAX) throw std::length_error("postings: a term's postings take over 4 GiB");
        out.cell_offsets[t + 1] += out.cell_offsets[t];
        out.byte_offsets[t + 1] += out.byte_offsets[t];
    }
    const std::size_t n_cells = out.cell_offsets[n_terms];
    out.cell_blocks.resize(n_cells);
    out.cell_bytes.resize(n_cells);
    out.data.resize(out.byte_offsets[n_terms] + kPadding);
    std::vector<uint32_t> next_cell(out.cell_offsets.begin(), out.cell_offsets.end() - 1);
    std::vector<uint32_t> next_byte(n_terms, 0);
    for (std::size_t b = 0; b < n_blocks; ++b) {
        for (const EncodedCell& cell : blocks[b].cells) {
            out.cell_blocks[next_cell[cell.rank]] = static_cast<uint16_t>(b);
            out.cell_bytes[next_cell[cell.rank]++] = next_byte[cell.rank];
            next_byte[cell.rank] += cell.bytes;
        }
    }
    std::vector<std::vector<uint32_t>> targets(n_blocks);  // of each block's cells: bytes from their term's first
    std::fill(next_byte.begin(), next_byte.end(), 0);
    for (std::size_t b = 0; b < n_blocks; ++b) {
        targets[b].reserve(blocks[b].cells.size());
        for (const EncodedCell& cell : blocks[b].cells) {
            targets[b].push_back(next_byte[cell.rank]);
            next_byte[cell.rank] += cell.bytes;
        }
    }
    for_each_item(n_blocks, threads, [&](std::size_t b) {
        const uint8_t* from = blocks[b].data.data();
        for (std::size_t i = 0; i < blocks[b].cells.size(); ++i) {
            const EncodedCell& cell = blocks[b].cells[i];
            std::memcpy(out.data.data() + out.byte_offsets[cell.rank] + targets[b][i], from, cell.bytes);
            from += cell.bytes;
        }
        blocks[b] = EncodedBlock();
    });
    return out;
}

}  // namespace sparsight
