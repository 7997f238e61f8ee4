// What a scan collects: passages that may be among the best documents.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "documents.hpp"

namespace sparsight {

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

}  // namespace sparsight
