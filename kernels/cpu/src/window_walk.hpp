// The way of a query's terms through the windows of a collection.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <vector>

#include "accumulate.hpp"
#include "documents.hpp"
#include "score_postings.hpp"
#include "stop.hpp"
#include "topk_documents.hpp"

namespace sparsight {

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

// What it is made from must outlive it.
class WindowWalk {
public:
    // A budget above 0 is counted from here.
    WindowWalk(const Postings& postings, const Documents& documents, const SearchOptions& options, Work& work)
        : postings_(postings), documents_(documents), stop_(options.stop), budget_ns_(options.effort.budget_ns), work_(work),
          began_(budget_ns_ > 0 ? Clock::now() : Clock::time_point{}) {}

    std::vector<Cursor> open(const std::vector<HeldTerm>& terms, double unit) const {
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
    bool for_each(std::vector<Cursor>& cursors, Window&& window) {
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
                stop_.check();
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

private:
    using Clock = std::chrono::steady_clock;

    bool late() const {
        return budget_ns_ > 0 &&
               std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - began_).count() > budget_ns_;
    }

    static uint32_t skip(const Cursor& c, uint32_t end) {
        uint32_t at = c.list_at;
        while (at < c.open.n_list && load16(c.open.slots + 2 * at) < end) ++at;
        return at;
    }

    const Postings& postings_;
    const Documents& documents_;
    const Stop& stop_;
    int64_t budget_ns_;
    Work& work_;
    Clock::time_point began_;
};

}  // namespace sparsight
