// Word pieces of texts: BERT's normalisation, its split into words, and longest match first.
//
// Nothing about Unicode is compiled in. Every character has a *spelling*: what stands in its place in the normalised
// text, with a blank wherever words part ("É" -> "e", "," -> " , ", a no-break space -> " ", a control character -> "").
// A text's words are the spellings of its characters, joined and cut at blanks. Spellings are learned from the caller,
// 256 characters (a page) at a time, when a text first needs them; so they are those of whatever tokenizer the caller
// asks, in the version of Unicode that it has, and texts are scanned without Python after that.
//
// Two kinds of texts are left to the caller as a whole: those with a literal (special tokens written out) and those
// with a character that has no spelling of its own (marks that normalisation may reorder).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "piece_trie.hpp"

namespace sparsight {

constexpr std::size_t page_size = 256;
constexpr std::size_t n_pages = 0x110000 / page_size;

using Spellings = std::vector<std::optional<std::string>>;  // one for each character of a page, UTF-8

struct WordPieceModel {
    std::vector<std::pair<std::string, int32_t>> pieces;  // numbers are not negative, no piece twice
    std::string continuation;                             // what pieces inside a word begin with: "##"
    int32_t unknown;                                      // for words that the pieces do not cover
    std::size_t max_chars;                                // longer words are unknown
    std::vector<std::string> literals;                    // not empty strings
};

// Texts that could not be encoded, and what was missing.
struct Odd {
    std::vector<int64_t> rows;
    std::vector<uint32_t> pages;  // ascending; none: the rows are texts that are left to the caller for good
};

struct Packed {
    std::vector<int32_t> ids;
    std::vector<int64_t> starts;  // one more than texts
    Odd odd;                      // these rows hold head and tail only
};

class WordPiece {
public:
    // `first` are the spellings of page 0.
    WordPiece(WordPieceModel model, const Spellings& first);
    ~WordPiece();
    WordPiece(const WordPiece&) = delete;
    WordPiece& operator=(const WordPiece&) = delete;

    // Safe beside running encoders. A page that is there already stays.
    void learn(uint32_t page, const Spellings& spellings);

    // Appends the text's pieces, at most `limit`; what is cut off is not looked at. False: `out` is as it was, and the
    // pages that were missing, if that was why, have been added to `missing`. The text is valid UTF-8.
    bool encode(std::string_view text, std::size_t limit, std::vector<int32_t>& out,
                std::vector<uint32_t>& missing) const;

    // All texts, each between head and tail. Threads take texts as they come; the result does not depend on them.
    Packed encode(const std::vector<std::string_view>& texts, std::size_t limit, std::size_t threads,
                  const std::vector<int32_t>& head, const std::vector<int32_t>& tail) const;

private:
    struct Page;
    class Words;

    bool has_literal(std::string_view text) const;
    void split(std::string_view word, std::vector<int32_t>& out) const;

    PieceTrie pieces_;
    uint32_t inside_;  // the node below which pieces inside a word lie
    int32_t unknown_;
    std::size_t max_chars_;
    std::vector<std::string> literals_;
    std::array<std::atomic<const Page*>, n_pages> pages_{};
    std::array<uint16_t, 128> ascii_{};  // kind << 8 | byte
};

}  // namespace sparsight
