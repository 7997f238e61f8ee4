// Python's view of the word-piece tokenizer; see sparsight.kernels.wordpiece, which checks the arguments.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "wordpiece.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace sparsight {

namespace {

constexpr std::size_t short_text = 1 << 16;  // bytes: giving the GIL away and getting it back may cost more than these

// The string's own UTF-8, without a copy for ASCII; valid while the string lives. Raises TypeError, UnicodeEncodeError.
std::string_view utf8(PyObject* text) {
    Py_ssize_t size = 0;
    const char* const data = PyUnicode_AsUTF8AndSize(text, &size);
    if (data == nullptr) throw nb::python_error();
    return {data, static_cast<std::size_t>(size)};
}

std::size_t limit_of(int64_t limit) { return limit < 0 ? SIZE_MAX : static_cast<std::size_t>(limit); }

nb::tuple bind_encode(const WordPiece& self, nb::tuple texts, int64_t limit, std::size_t threads,
                      std::vector<int32_t> head, std::vector<int32_t> tail) {
    std::vector<std::string_view> views(texts.size());
    for (std::size_t i = 0; i < views.size(); ++i) {
        views[i] = utf8(PyTuple_GET_ITEM(texts.ptr(), static_cast<Py_ssize_t>(i)));  // the tuple keeps it alive
    }
    Packed packed;
    {
        const nb::gil_scoped_release release;
        packed = self.encode(views, limit_of(limit), threads, head, tail);
    }
    const std::size_t n_ids = packed.ids.size(), n_rows = packed.odd.rows.size();
    return nb::make_tuple(own(std::move(packed.ids), {n_ids}), own(std::move(packed.starts), {views.size() + 1}),
                          own(std::move(packed.odd.rows), {n_rows}), packed.odd.pages);
}

// Distinct pieces with a positive weight, ascending, and these weights.
nb::tuple weigh(std::vector<int32_t>&& ids, const In<float>& table) {
    std::sort(ids.begin(), ids.end());
    if (!ids.empty() && ids.front() < 0) throw std::invalid_argument("ids: expected none below 0");
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    if (!ids.empty() && static_cast<std::size_t>(ids.back()) >= table.shape(0)) {
        throw std::invalid_argument("table: expected more than " + std::to_string(ids.back()) + " weights, received " +
                                    std::to_string(table.shape(0)));
    }
    std::erase_if(ids, [&](int32_t id) { return !(table.data()[id] > 0); });  // NaN too
    std::vector<float> weights(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) weights[i] = table.data()[ids[i]];
    const std::size_t n = ids.size();
    return nb::make_tuple(own(std::move(ids), {n}), own(std::move(weights), {n}));
}

std::optional<nb::tuple> bind_lookup(const WordPiece& self, nb::str text, In<float> table, int64_t limit) {
    const std::string_view view = utf8(text.ptr());
    std::vector<int32_t> ids;
    std::vector<uint32_t> missing;
    bool complete;
    {
        std::optional<nb::gil_scoped_release> release;
        if (view.size() > short_text) release.emplace();
        complete = self.encode(view, limit_of(limit), ids, missing);
    }
    if (!complete) return std::nullopt;
    return weigh(std::move(ids), table);
}

nb::tuple bind_weigh(In<int32_t> ids, In<float> table) {
    return weigh(std::vector<int32_t>(ids.data(), ids.data() + ids.shape(0)), table);
}

}  // namespace

void bind_wordpiece(nb::module_& m) {
    nb::class_<WordPiece>(m, "WordPiece")
        .def(
            "__init__",
            [](WordPiece* self, std::vector<std::pair<std::string, int32_t>> pieces, std::string continuation,
               int32_t unknown, std::size_t max_chars, std::vector<std::string> literals, const Spellings& first) {
                new (self) WordPiece({std::move(pieces), std::move(continuation), unknown, max_chars,
                                      std::move(literals)}, first);
            },
            "pieces"_a, "continuation"_a, "unknown"_a, "max_chars"_a, "literals"_a, "first"_a)
        .def("learn", &WordPiece::learn, "page"_a, "spellings"_a)
        .def("encode", &bind_encode, "texts"_a, "limit"_a, "threads"_a, "head"_a, "tail"_a)
        .def("lookup", &bind_lookup, "text"_a, "table"_a.noconvert(), "limit"_a);
    m.def("weigh_pieces", &bind_weigh, "ids"_a.noconvert(), "table"_a.noconvert());
}

}  // namespace sparsight
