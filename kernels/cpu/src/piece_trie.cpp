#include "piece_trie.hpp"

#include <algorithm>

namespace sparsight {

namespace {

constexpr std::size_t block = 256;
// Free slots tried for the first child before a new block is opened: bounds the time to build, costs some slots.
constexpr std::size_t max_tries = 256;

// Keys [begin, end) that share their first `depth` bytes, which lead to `node`.
struct Range {
    std::size_t begin, end, depth;
    uint32_t node;
};

}  // namespace

PieceTrie::PieceTrie(std::vector<std::pair<std::string, int32_t>> keys) : nodes_(block) {
    std::sort(keys.begin(), keys.end());
    std::vector<Range> open{{0, keys.size(), 0, root}};  // not recursion: a key may be long
    std::vector<uint8_t> bytes;
    while (!open.empty()) {
        auto [begin, end, depth, node] = open.back();
        open.pop_back();
        if (begin < end && keys[begin].first.size() == depth) nodes_[node].value = keys[begin++].second;
        if (begin == end) continue;
        bytes.clear();
        for (std::size_t i = begin; i < end; ++i) {
            const auto byte = static_cast<uint8_t>(keys[i].first[depth]);
            if (bytes.empty() || bytes.back() != byte) bytes.push_back(byte);
        }
        const uint32_t base = place(bytes);
        nodes_[node].base = base;
        for (const uint8_t byte : bytes) nodes_[base ^ byte].parent = node;
        for (std::size_t i = begin; i < end;) {
            const char byte = keys[i].first[depth];
            const std::size_t first = i;
            while (i < end && keys[i].first[depth] == byte) ++i;
            open.push_back({first, i, depth + 1, base ^ static_cast<uint8_t>(byte)});
        }
    }
}

// A base whose slots for these bytes are all free. Slot 0 is the root's and never taken.
uint32_t PieceTrie::place(const std::vector<uint8_t>& bytes) {
    while (first_free_ < nodes_.size() && nodes_[first_free_].parent != free_slot) ++first_free_;
    std::size_t tries = 0;
    for (std::size_t slot = first_free_; slot < nodes_.size() && tries < max_tries; ++slot) {
        if (nodes_[slot].parent != free_slot) continue;
        ++tries;
        const auto base = static_cast<uint32_t>(slot) ^ bytes[0];
        const bool fits = std::all_of(bytes.begin(), bytes.end(), [&](uint8_t byte) {
            return (base ^ byte) != root && nodes_[base ^ byte].parent == free_slot;
        });
        if (fits) return base;
    }
    const auto base = static_cast<uint32_t>(nodes_.size());
    nodes_.resize(nodes_.size() + block);
    return base;
}

}  // namespace sparsight
