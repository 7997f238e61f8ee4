// Python's view of the kernels. Arguments were checked by sparsight.kernels; here they become pointers, the GIL is
// released, and results become numpy arrays that own their memory.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "build_postings.hpp"
#include "dots.hpp"
#include "errors.hpp"
#include "paths.hpp"
#include "pursuit.hpp"
#include "score_postings.hpp"
#include "topk_documents.hpp"
#include "topk_encode.hpp"
#include "work_queue.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace sparsight;

namespace {

using InMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Flag = nb::ndarray<uint8_t, nb::shape<1>, nb::c_contig, nb::device::cpu>;

// sparsight.errors is found when it is needed: the module itself needs nothing but numpy.
void set_error(const char* name, const char* message) {
    const nb::object type = nb::module_::import_("sparsight.errors").attr(name);
    PyErr_SetString(type.ptr(), message);
}

void translate(const std::exception_ptr& error, void*) {
    try {
        std::rethrow_exception(error);
    } catch (const CorruptIndex& e) {
        set_error("CorruptIndexError", e.what());
    } catch (const DeadlinePassed& e) {
        set_error("DeadlineError", e.what());
    } catch (const SearchStopped& e) {
        set_error("SearchStoppedError", e.what());
    } catch (const std::invalid_argument& e) {
        set_error("InvalidArgumentError", e.what());
    }
}

// The arrays of sparsight.kernels.Postings, kept alive, and the view of them that the kernels take.
struct PostingsHandle {
    In<uint32_t> term_ids, frequencies;
    In<uint8_t> max_impacts;
    In<uint32_t> cell_offsets;
    In<uint64_t> byte_offsets;
    In<uint16_t> cell_blocks;
    In<uint32_t> cell_bytes;
    In<uint8_t> data;
    In<uint32_t> passage_offsets;
    Postings view;

    PostingsHandle(In<uint32_t> term_ids, In<uint32_t> frequencies, In<uint8_t> max_impacts, In<uint32_t> cell_offsets,
                   In<uint64_t> byte_offsets, In<uint16_t> cell_blocks, In<uint32_t> cell_bytes, In<uint8_t> data,
                   In<uint32_t> passage_offsets, bool single, uint32_t most_terms)
        : term_ids(term_ids), frequencies(frequencies), max_impacts(max_impacts), cell_offsets(cell_offsets),
          byte_offsets(byte_offsets), cell_blocks(cell_blocks), cell_bytes(cell_bytes), data(data),
          passage_offsets(passage_offsets),
          view{term_ids.data(),    frequencies.data(), max_impacts.data(), cell_offsets.data(), byte_offsets.data(),
               term_ids.shape(0),  cell_blocks.data(), cell_bytes.data(),  cell_blocks.shape(0), data.data(),
               data.shape(0),      passage_offsets.data(), passage_offsets.shape(0) - 1, single,
               most_terms} {}
};

nb::tuple bind_build_postings(In<uint64_t> indptr, In<uint32_t> term_ids, In<uint8_t> impacts, std::size_t threads) {
    PostingsOut made;
    {
        const nb::gil_scoped_release release;
        made = build_postings({indptr.data(), term_ids.data(), impacts.data(), indptr.shape(0) - 1}, threads);
    }
    const auto out = [](auto&& values) {
        const std::size_t n = values.size();
        return own(std::move(values), {n});
    };
    return nb::make_tuple(out(std::move(made.term_ids)), out(std::move(made.frequencies)),
                          out(std::move(made.max_impacts)), out(std::move(made.cell_offsets)),
                          out(std::move(made.byte_offsets)), out(std::move(made.cell_blocks)),
                          out(std::move(made.cell_bytes)), out(std::move(made.data)));
}

nb::tuple bind_decode_term(const PostingsHandle& postings, std::size_t term) {
    std::vector<uint32_t> passages;
    std::vector<uint8_t> impacts;
    {
        const nb::gil_scoped_release release;
        decode_term(postings.view, term, passages, impacts);
    }
    const std::size_t n = passages.size();
    return nb::make_tuple(own(std::move(passages), {n}), own(std::move(impacts), {n}));
}

Out<int32_t> bind_score_postings(const PostingsHandle& postings, In<uint32_t> terms, In<int16_t> weights,
                                 In<uint32_t> passages) {
    const std::size_t n = passages.shape(0);
    std::vector<int32_t> scores(n);
    {
        const nb::gil_scoped_release release;
        const auto held = hold(postings.view, terms.data(), weights.data(), terms.shape(0));
        score_postings(postings.view, held, passages.data(), n, scores.data());
    }
    return own(std::move(scores), {n});
}

// Whether terms ascend strictly and no score can leave int32; which of these a query breaks is Python's to say.
bool is_sound(In<uint32_t> terms, In<int16_t> weights) {
    int64_t total = 0;
    for (std::size_t i = 0; i < terms.shape(0); ++i) {
        if (i > 0 && terms.data()[i] <= terms.data()[i - 1]) return false;
        total += std::abs(int{weights.data()[i]});
    }
    return total * 255 <= INT32_MAX;
}

// Signed 16-bit levels of query weights, those of 0 left out: sparsight.kernels.quantise_weights.
nb::tuple bind_quantise_weights(In<uint32_t> terms, In<double> weights) {
    double largest = 0;
    double total = 0;
    const std::size_t n = terms.shape(0);
    for (std::size_t i = 0; i < n; ++i) {
        largest = std::max(largest, std::abs(weights.data()[i]));
        total += std::abs(weights.data()[i]);
    }
    std::vector<uint32_t> kept;
    std::vector<int16_t> levels;
    double unit = 0;
    if (largest > 0) {
        const double room = double(INT32_MAX) / 255 - double(n);  // rounding adds at most 1/2 a term
        unit = std::max(largest / 32'767, total / room);
        kept.reserve(n);
        levels.reserve(n);
        for (std::size_t i = 0; i < n; ++i) {
            const auto level = static_cast<int16_t>(std::nearbyint(weights.data()[i] / unit));  // half to even
            if (level == 0) continue;
            kept.push_back(terms.data()[i]);
            levels.push_back(level);
        }
    }
    const std::size_t count = kept.size();
    return nb::make_tuple(own(std::move(kept), {count}), own(std::move(levels), {count}), unit);
}

// One search for every query; single queries are batches of one, which never start a thread.
nb::tuple bind_topk_documents(const PostingsHandle& postings, In<uint32_t> terms, In<int16_t> weights,
                              In<uint64_t> starts, std::vector<std::optional<In<uint64_t>>> masks, std::size_t k,
                              int32_t min_score, Flag flag, int64_t deadline_ns, std::size_t threads,
                              const std::string& path, double mass, std::size_t pool, double deviations,
                              int64_t budget_ns) {
    const SearchOptions options{std::max<std::size_t>(k, 1), min_score, {flag.data(), deadline_ns}, parse_path(path),
                                {mass, pool, deviations, budget_ns}};
    const std::size_t n_queries = starts.shape(0) - 1;
    std::vector<const uint64_t*> mask_of(n_queries, nullptr);
    for (std::size_t q = 0; q < n_queries; ++q) {
        const auto& mask = masks.size() == 1 ? masks[0] : masks.at(q);
        if (mask) mask_of[q] = mask->data();
    }
    std::vector<int32_t> documents;
    std::vector<int32_t> scores;
    std::vector<uint32_t> winners;
    std::vector<uint64_t> ends{0};
    std::vector<uint64_t> work;
    {
        const nb::gil_scoped_release release;
        std::vector<Hits> hits(n_queries);
        std::vector<Work> done(n_queries);
        for_each_item(n_queries, threads, [&](std::size_t q) {
            const uint64_t start = starts.data()[q];
            const Query query{terms.data() + start, weights.data() + start,
                              static_cast<std::size_t>(starts.data()[q + 1] - start), mask_of[q]};
            hits[q] = topk_documents(postings.view, query, options, done[q]);
        });
        std::size_t total = 0;
        for (const Hits& each : hits) ends.push_back(total += each.size());
        documents.reserve(total);
        scores.reserve(total);
        winners.reserve(total);
        for (const Hits& each : hits) {
            for (const auto& hit : each) {
                documents.push_back(static_cast<int32_t>(hit.id));
                scores.push_back(hit.score);
                winners.push_back(hit.payload);
            }
        }
        for (const Work& w : done) work.insert(work.end(), {w.mode, w.terms, w.postings, w.passages, w.rescored});
    }
    const std::size_t total = documents.size();
    return nb::make_tuple(own(std::move(documents), {total}), own(std::move(scores), {total}),
                          own(std::move(winners), {total}), own(std::move(ends), {n_queries + 1}),
                          own(std::move(work), {n_queries, 5}));
}

Rows rows_of(const In<uint64_t>& indptr, const In<uint32_t>& ids, const std::optional<In<uint32_t>>& rows) {
    return {indptr.data(), ids.data(), ids.shape(0), rows ? rows->data() : nullptr,
            rows ? rows->shape(0) : indptr.shape(0) - 1};
}

Out<int32_t> bind_score_passages(In<uint64_t> indptr, In<uint32_t> ids, In<uint8_t> impacts, In<uint32_t> terms,
                                 In<int16_t> weights, std::optional<In<uint32_t>> rows) {
    const Rows chosen = rows_of(indptr, ids, rows);
    std::vector<int32_t> out(chosen.n_chosen);
    {
        const nb::gil_scoped_release release;
        score_passages(chosen, impacts.data(), terms.data(), weights.data(), terms.shape(0), out.data());
    }
    return own(std::move(out), {chosen.n_chosen});
}

template <class T>
Values values_of(const In<T>& values) {
    if constexpr (std::is_same_v<T, float>) return {values.data(), nullptr};
    else return {nullptr, values.data()};
}

template <class T>
Out<float> bind_sparse_dot_sparse(In<uint64_t> indptr, In<uint32_t> ids, In<T> values, In<uint32_t> rows,
                                  In<uint32_t> q_ids, In<float> q_values, const std::string& path) {
    const Rows chosen = rows_of(indptr, ids, rows);
    const Path chosen_path = parse_path(path);
    std::vector<float> out(chosen.n_chosen);
    {
        const nb::gil_scoped_release release;
        sparse_dot_sparse(chosen, values_of(values), q_ids.data(), q_values.data(), q_ids.shape(0), chosen_path,
                          out.data());
    }
    return own(std::move(out), {chosen.n_chosen});
}

template <class T>
Out<float> bind_sparse_dot_dense(In<uint64_t> indptr, In<uint32_t> ids, In<T> values, In<uint32_t> rows, In<float> q,
                                 const std::string& path) {
    const Rows chosen = rows_of(indptr, ids, rows);
    const Path chosen_path = parse_path(path);
    std::vector<float> out(chosen.n_chosen);
    {
        const nb::gil_scoped_release release;
        sparse_dot_dense(chosen, values_of(values), q.data(), q.shape(0), chosen_path, out.data());
    }
    return own(std::move(out), {chosen.n_chosen});
}

nb::tuple bind_topk_encode(InMatrix x, InMatrix w_enc, In<float> b_enc, std::size_t k, std::size_t threads,
                           const std::string& path) {
    const EncodeInput input{x.data(), x.shape(0), w_enc.data(), b_enc.data(), w_enc.shape(0), x.shape(1)};
    const Path chosen_path = parse_path(path);
    std::vector<int32_t> idx(input.n_rows * k);
    std::vector<float> val(input.n_rows * k);
    {
        const nb::gil_scoped_release release;
        topk_encode(input, k, threads, chosen_path, idx.data(), val.data());
    }
    return nb::make_tuple(own(std::move(idx), {input.n_rows, k}), own(std::move(val), {input.n_rows, k}));
}

nb::tuple bind_threshold_encode(InMatrix x, InMatrix w_enc, In<float> b_enc, In<float> threshold, std::size_t threads,
                                const std::string& path) {
    const EncodeInput input{x.data(), x.shape(0), w_enc.data(), b_enc.data(), w_enc.shape(0), x.shape(1)};
    const Path chosen_path = parse_path(path);
    SparseRows rows;
    {
        const nb::gil_scoped_release release;
        rows = threshold_encode(input, threshold.data(), threads, chosen_path);
    }
    const std::size_t stored = rows.idx.size();
    return nb::make_tuple(own(std::move(rows.indptr), {input.n_rows + 1}), own(std::move(rows.idx), {stored}),
                          own(std::move(rows.val), {stored}));
}

nb::tuple bind_pursue(InMatrix y, InMatrix w_dec, std::size_t k, std::size_t candidates, bool once,
                      std::size_t threads, const std::string& path) {
    const PursuitInput input{y.data(), y.shape(0), w_dec.data(), w_dec.shape(0), y.shape(1), k, candidates, once};
    const Path chosen_path = parse_path(path);
    std::vector<int32_t> idx(input.n_rows * k);
    std::vector<float> val(input.n_rows * k);
    {
        const nb::gil_scoped_release release;
        pursue(input, threads, chosen_path, idx.data(), val.data());
    }
    return nb::make_tuple(own(std::move(idx), {input.n_rows, k}), own(std::move(val), {input.n_rows, k}));
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Compiled kernels; call them through sparsight.kernels, which checks the arguments.";
#ifdef NDEBUG
    // Encoders stay in a cache of the process until its end, hence their tokenizers too: no reports of leaks to users.
    nb::set_leak_warnings(false);
#endif
    nb::register_exception_translator(translate);
    m.def("available_paths", &available_paths);
    // No conversions: a silent copy of a mapped array would cost more than the search.
    nb::class_<PostingsHandle>(m, "Postings")
        .def(nb::init<In<uint32_t>, In<uint32_t>, In<uint8_t>, In<uint32_t>, In<uint64_t>, In<uint16_t>, In<uint32_t>,
                      In<uint8_t>, In<uint32_t>, bool, uint32_t>(),
             "term_ids"_a.noconvert(), "frequencies"_a.noconvert(), "max_impacts"_a.noconvert(),
             "cell_offsets"_a.noconvert(), "byte_offsets"_a.noconvert(), "cell_blocks"_a.noconvert(),
             "cell_bytes"_a.noconvert(), "data"_a.noconvert(), "passage_offsets"_a.noconvert(), "single"_a, "most_terms"_a);
    m.def("quantise_weights", &bind_quantise_weights, "terms"_a.noconvert(), "weights"_a.noconvert());
    m.def("is_sound", &is_sound, "terms"_a.noconvert(), "weights"_a.noconvert());
    m.def("build_postings", &bind_build_postings, "indptr"_a.noconvert(), "term_ids"_a.noconvert(),
          "impacts"_a.noconvert(), "threads"_a);
    m.def("decode_term", &bind_decode_term, "postings"_a, "term"_a);
    m.def("score_postings", &bind_score_postings, "postings"_a, "terms"_a.noconvert(), "weights"_a.noconvert(),
          "passages"_a.noconvert());
    m.def("topk_documents", &bind_topk_documents, "postings"_a, "terms"_a.noconvert(), "weights"_a.noconvert(),
          "starts"_a.noconvert(), "masks"_a, "k"_a, "min_score"_a, "flag"_a.noconvert(), "deadline_ns"_a, "threads"_a,
          "path"_a, "mass"_a, "pool"_a, "deviations"_a, "budget_ns"_a);
    m.def("score_passages", &bind_score_passages, "indptr"_a.noconvert(), "ids"_a.noconvert(),
          "impacts"_a.noconvert(), "terms"_a.noconvert(), "weights"_a.noconvert(), "rows"_a.noconvert().none());
    m.def("sparse_dot_sparse", &bind_sparse_dot_sparse<float>, "indptr"_a.noconvert(), "ids"_a.noconvert(),
          "values"_a.noconvert(), "rows"_a.noconvert(), "q_ids"_a.noconvert(), "q_values"_a.noconvert(), "path"_a);
    m.def("sparse_dot_sparse", &bind_sparse_dot_sparse<uint16_t>, "indptr"_a.noconvert(), "ids"_a.noconvert(),
          "values"_a.noconvert(), "rows"_a.noconvert(), "q_ids"_a.noconvert(), "q_values"_a.noconvert(), "path"_a);
    m.def("sparse_dot_dense", &bind_sparse_dot_dense<float>, "indptr"_a.noconvert(), "ids"_a.noconvert(),
          "values"_a.noconvert(), "rows"_a.noconvert(), "q"_a.noconvert(), "path"_a);
    m.def("sparse_dot_dense", &bind_sparse_dot_dense<uint16_t>, "indptr"_a.noconvert(), "ids"_a.noconvert(),
          "values"_a.noconvert(), "rows"_a.noconvert(), "q"_a.noconvert(), "path"_a);
    m.def("topk_encode", &bind_topk_encode, "x"_a.noconvert(), "w_enc"_a.noconvert(), "b_enc"_a.noconvert(), "k"_a,
          "threads"_a, "path"_a);
    m.def("threshold_encode", &bind_threshold_encode, "x"_a.noconvert(), "w_enc"_a.noconvert(), "b_enc"_a.noconvert(),
          "threshold"_a.noconvert(), "threads"_a, "path"_a);
    m.def("pursue", &bind_pursue, "y"_a.noconvert(), "w_dec"_a.noconvert(), "k"_a, "candidates"_a, "once"_a,
          "threads"_a, "path"_a);
    bind_wordpiece(m);
}
