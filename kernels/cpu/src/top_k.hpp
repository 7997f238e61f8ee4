// The k best of a stream of candidates that arrive by ascending id.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sparsight {

template <class Score>
struct Scored {
    Score score;
    uint32_t id;       // document or latent
    uint32_t payload;  // winning passage, or unused

    // The order of every result: higher score, then lower id.
    bool better_than(const Scored& other) const {
        return score != other.score ? score > other.score : id < other.id;
    }
};

// Keeps the k best. Since ids ascend, a candidate that only equals the worst kept one loses the tie: the test for
// entry is score > threshold(), and no comparison of ids is needed until the final sort.
//
// Tried instead: gathering 2k candidates and cutting them with nth_element. Its threshold lags, which made whole
// searches 20 % slower for k <= 100 (8 % faster for k = 1000).
template <class Score>
class TopK {
public:
    using Item = Scored<Score>;

    void reset(std::size_t k, Score floor) {
        items_.clear();
        k_ = k;
        floor_ = floor;
        threshold_ = floor;
    }

    // Candidates at or below it cannot enter.
    Score threshold() const { return threshold_; }

    void offer(const Item& item) {
        if (!(item.score > threshold_)) return;
        if (items_.size() < k_) {
            items_.push_back(item);
            // A heap is only needed once something must leave.
            if (items_.size() == k_) {
                std::make_heap(items_.begin(), items_.end(), better);
                threshold_ = std::max(floor_, items_.front().score);
            }
            return;
        }
        replace_worst(item);
        threshold_ = items_.front().score;
    }

    // Sorts, best first, and hands the items out; reset() before the next use.
    std::vector<Item>& sorted() {
        std::sort(items_.begin(), items_.end(), better);
        return items_;
    }

private:
    // With this order the front of a standard heap is the worst item.
    static bool better(const Item& a, const Item& b) { return a.better_than(b); }

    void replace_worst(const Item& item) {
        const std::size_t n = items_.size();
        std::size_t hole = 0;
        for (std::size_t child; (child = 2 * hole + 1) < n; hole = child) {
            if (child + 1 < n && items_[child].better_than(items_[child + 1])) ++child;
            if (!item.better_than(items_[child])) break;
            items_[hole] = items_[child];
        }
        items_[hole] = item;
    }

    std::vector<Item> items_;
    std::size_t k_ = 0;
    Score floor_{};
    Score threshold_{};
};

}  // namespace sparsight
