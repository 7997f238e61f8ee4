// Byte strings with a number each, as a double array: the child of a node by a byte is one load and one comparison.
//
// Reference: Aoe 1989, "An Efficient Digital Search Algorithm by Using a Double-Array Structure"; with XOR in place of
// addition, so that all children of a node lie in one block of 256 slots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace sparsight {

class PieceTrie {
public:
    static constexpr uint32_t root = 0;

    // Any bytes, no key twice; values are not negative.
    explicit PieceTrie(std::vector<std::pair<std::string, int32_t>> keys);

    // The child of a node, or `root` (nobody's child) where there is none.
    uint32_t child(uint32_t node, uint8_t byte) const {
        const uint32_t next = nodes_[node].base ^ byte;
        return nodes_[next].parent == node ? next : root;
    }

    // Number of the key that ends at this node; -1 where none does.
    int32_t value(uint32_t node) const { return nodes_[node].value; }

private:
    static constexpr uint32_t free_slot = UINT32_MAX;

    struct Node {
        uint32_t base = 0;
        uint32_t parent = free_slot;
        int32_t value = -1;
    };

    uint32_t place(const std::vector<uint8_t>& bytes);

    std::vector<Node> nodes_;
    std::size_t first_free_ = 1;
};

}  // namespace sparsight
