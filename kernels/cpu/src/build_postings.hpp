// Postings from rows: the cells of each block of passages are encoded on their own, on all cores, then strung together
// by term.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sparsight {

struct RowsIn {
    const uint64_t* indptr;  // n_rows + 1
    const uint32_t* term_ids;
    const uint8_t* impacts;  // those of 0 are left out
    std::size_t n_rows;
};

struct PostingsOut {
    std::vector<uint32_t> term_ids, frequencies;
    std::vector<uint8_t> max_impacts;
    std::vector<uint32_t> cell_offsets;
    std::vector<uint64_t> byte_offsets;
    std::vector<uint16_t> cell_blocks;
    std::vector<uint32_t> cell_bytes;
    std::vector<uint8_t> data;
};

// Equal input gives equal bytes, whatever the number of threads. Throws std::length_error when a term's postings take
// 4 GiB or more, or there are more than 2**32 passages; std::invalid_argument when a row repeats a term.
PostingsOut build_postings(const RowsIn& rows, std::size_t threads);

}  // namespace sparsight
