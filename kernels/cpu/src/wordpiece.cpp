#include "wordpiece.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "work_queue.hpp"

namespace sparsight {

namespace {

constexpr char mark_inside = '\xff';     // in no UTF-8 string: separates pieces inside a word from those at its start
constexpr std::size_t texts_a_time = 32;  // handed to a thread: some 100 us of work

// What an ASCII character does, for those that need no look at their page.
enum Kind : uint16_t { letter, blank, alone, other };

std::vector<std::pair<std::string, int32_t>> trie_keys(const WordPieceModel& model) {
    std::vector<std::pair<std::string, int32_t>> keys = model.pieces;
    for (const auto& [piece, id] : model.pieces) {
        if (!piece.starts_with(model.continuation)) continue;
        keys.emplace_back(mark_inside + piece.substr(model.continuation.size()), id);
    }
    // At least the node, so that the inside of a word has one where no piece continues a word.
    keys.emplace_back(std::string(1, mark_inside) + mark_inside, 0);
    return keys;
}

uint16_t ascii_entry(const std::string& spelling) {
    const auto entry = [](Kind kind, char byte) { return static_cast<uint16_t>(kind << 8 | uint8_t(byte)); };
    const auto plain = [](char byte) { return byte != ' ' && byte > 0; };
    if (spelling.size() == 1 && plain(spelling[0])) return entry(letter, spelling[0]);
    if (spelling == " ") return entry(blank, 0);
    if (spelling.size() == 3 && spelling[0] == ' ' && plain(spelling[1]) && spelling[2] == ' ') {
        return entry(alone, spelling[1]);
    }
    return entry(other, 0);
}

// The character at `at` in valid UTF-8, and `at` moved behind it.
uint32_t next_character(const char*& at) {
    const auto byte = [&](int i) { return static_cast<uint32_t>(static_cast<uint8_t>(at[i])); };
    const uint32_t first = byte(0);
    uint32_t character;
    int length;
    if (first < 0x80) length = 1, character = first;
    else if (first < 0xe0) length = 2, character = (first & 0x1f) << 6 | (byte(1) & 0x3f);
    else if (first < 0xf0) length = 3, character = (first & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
    else {
        length = 4;
        character = (first & 7) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
    }
    at += length;
    return character;
}

}  // namespace

struct WordPiece::Page {
    std::array<uint16_t, page_size + 1> starts{};  // of each spelling in `bytes`
    std::array<bool, page_size> has_spelling{};
    std::string bytes;
};

// The word under way: its bytes so far, and the pieces of those before it.
class WordPiece::Words {
public:
    Words(const WordPiece& tokenizer, std::vector<int32_t>& out)
        : tokenizer_(tokenizer), out_(out) {
        word_.reserve(256);
    }

    void append(char byte) {
        chars_ += (byte & 0xc0) != 0x80;
        if (chars_ <= tokenizer_.max_chars_) word_.push_back(byte);
    }

    void end() {
        if (chars_ == 0) return;
        if (chars_ > tokenizer_.max_chars_) out_.push_back(tokenizer_.unknown_);
        else tokenizer_.split(word_, out_);
        word_.clear();
        chars_ = 0;
    }

private:
    const WordPiece& tokenizer_;
    std::vector<int32_t>& out_;
    std::string word_;
    std::size_t chars_ = 0;
};

WordPiece::WordPiece(WordPieceModel model, const Spellings& first)
    : pieces_(trie_keys(model)),
      inside_(pieces_.child(PieceTrie::root, static_cast<uint8_t>(mark_inside))),
      unknown_(model.unknown),
      max_chars_(model.max_chars),
      literals_(std::move(model.literals)) {
    learn(0, first);
    for (std::size_t c = 0; c < ascii_.size(); ++c) ascii_[c] = first[c] ? ascii_entry(*first[c]) : other << 8;
}

WordPiece::~WordPiece() {
    for (const auto& page : pages_) delete page.load();
}

void WordPiece::learn(uint32_t number, const Spellings& spellings) {
    if (number >= n_pages) throw std::invalid_argument("page: out of range");
    if (spellings.size() != page_size) throw std::invalid_argument("spellings: expected 256");
    auto page = std::make_unique<Page>();
    for (std::size_t c = 0; c < page_size; ++c) {
        page->has_spelling[c] = spellings[c].has_value();
        if (spellings[c]) page->bytes += *spellings[c];
        if (page->bytes.size() > UINT16_MAX) throw std::invalid_argument("spellings: too long");
        page->starts[c + 1] = static_cast<uint16_t>(page->bytes.size());
    }
    const Page* none = nullptr;
    if (pages_[number].compare_exchange_strong(none, page.get(), std::memory_order_acq_rel)) (void)page.release();
}

bool WordPiece::has_literal(std::string_view text) const {
    for (std::size_t i = 0; i < literals_.size(); ++i) {
        const char first = literals_[i][0];
        const auto same = [&](const std::string& literal) { return literal[0] == first; };
        if (std::any_of(literals_.begin(), literals_.begin() + i, same)) continue;  // looked for already
        for (std::size_t at = text.find(first); at != text.npos; at = text.find(first, at + 1)) {
            const auto here = [&](const std::string& literal) { return text.substr(at).starts_with(literal); };
            if (std::any_of(literals_.begin() + i, literals_.end(), here)) return true;
        }
    }
    return false;
}

// Longest match first; a word that cannot be covered to its end is unknown as a whole.
void WordPiece::split(std::string_view word, std::vector<int32_t>& out) const {
    const std::size_t before = out.size();
    uint32_t from = PieceTrie::root;
    for (std::size_t start = 0; start < word.size();) {
        int32_t best = -1;
        std::size_t stop = start;
        uint32_t node = from;
        for (std::size_t i = start; i < word.size(); ++i) {
            node = pieces_.child(node, static_cast<uint8_t>(word[i]));
            if (node == PieceTrie::root) break;
            if (pieces_.value(node) >= 0) best = pieces_.value(node), stop = i + 1;
        }
        if (best < 0) {
            out.resize(before);
            out.push_back(unknown_);
            return;
        }
        out.push_back(best);
        start = stop;
        from = inside_;
    }
}

bool WordPiece::encode(std::string_view text, std::size_t limit, std::vector<int32_t>& out,
                       std::vector<uint32_t>& missing) const {
    if (limit == 0) return true;
    if (has_literal(text)) return false;
    const std::size_t before = out.size();
    const char* const end = text.data() + text.size();
    bool complete = true;
    Words words(*this, out);
    for (const char* at = text.data(); at < end;) {
        const auto first = static_cast<uint8_t>(*at);
        const uint16_t entry = first < 0x80 ? ascii_[first] : other << 8;
        const char byte = static_cast<char>(entry & 0xff);
        if (const int kind = entry >> 8; kind == letter) {
            words.append(byte);
            ++at;
            continue;
        } else if (kind != other) {
            words.end();
            if (kind == alone) {
                words.append(byte);
                words.end();
            }
            ++at;
        } else {
            const uint32_t character = next_character(at);
            const Page* const page = pages_[character / page_size].load(std::memory_order_acquire);
            const uint32_t place = character % page_size;
            if (page == nullptr || !page->has_spelling[place]) {
                // Without it nothing here counts, but the pages of what follows are wanted at once.
                const uint32_t number = character / page_size;
                if (page == nullptr && (missing.empty() || missing.back() != number)) missing.push_back(number);
                complete = false;
                continue;
            }
            for (std::size_t i = page->starts[place]; i < page->starts[place + 1]; ++i) {
                if (page->bytes[i] == ' ') words.end();
                else words.append(page->bytes[i]);
            }
        }
        if (out.size() - before >= limit) break;
    }
    words.end();
    if (!complete) out.resize(before);
    else if (out.size() - before > limit) out.resize(before + limit);
    return complete;
}

Packed WordPiece::encode(const std::vector<std::string_view>& texts, std::size_t limit, std::size_t threads,
                         const std::vector<int32_t>& head, const std::vector<int32_t>& tail) const {
    struct Part {
        std::vector<int32_t> ids;
        Odd odd;
    };
    const std::size_t n = texts.size();
    std::vector<Part> parts((n + texts_a_time - 1) / texts_a_time);
    Packed packed;
    packed.starts.resize(n + 1);
    for_each_item(parts.size(), threads, [&](std::size_t p) {
        Part& part = parts[p];
        for (std::size_t row = p * texts_a_time; row < std::min(n, (p + 1) * texts_a_time); ++row) {
            const std::size_t before = part.ids.size();
            part.ids.insert(part.ids.end(), head.begin(), head.end());
            if (!encode(texts[row], limit, part.ids, part.odd.pages)) part.odd.rows.push_back(int64_t(row));
            part.ids.insert(part.ids.end(), tail.begin(), tail.end());
            packed.starts[row + 1] = int64_t(part.ids.size() - before);
        }
    });
    for (std::size_t row = 0; row < n; ++row) packed.starts[row + 1] += packed.starts[row];
    packed.ids.reserve(std::size_t(packed.starts[n]));
    Odd& odd = packed.odd;
    for (const Part& part : parts) {
        packed.ids.insert(packed.ids.end(), part.ids.begin(), part.ids.end());
        odd.rows.insert(odd.rows.end(), part.odd.rows.begin(), part.odd.rows.end());
        odd.pages.insert(odd.pages.end(), part.odd.pages.begin(), part.odd.pages.end());
    }
    std::sort(odd.pages.begin(), odd.pages.end());
    odd.pages.erase(std::unique(odd.pages.begin(), odd.pages.end()), odd.pages.end());
    return packed;
}

}  // namespace sparsight
