#include "pursuit.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "products.hpp"
#include "rounded_atoms.hpp"
#include "shortlist.hpp"
#include "top_k.hpp"
#include "work_queue.hpp"

namespace sparsight {
namespace {

constexpr std::size_t kPicks = 4;  // atoms added after a look
constexpr int kSweeps = 4;         // of coordinate descent after each
constexpr int kLastSweeps = 30;
constexpr float kStill = 1e-6f;  // a sweep that moves no value by more than this share of the largest is the last
constexpr double kNothing = 1e-6;  // products with the residual below this share of the row's length are rounding
constexpr std::size_t kLanes = 16;         // rows of a Gram matrix are filled up to so many floats
constexpr std::size_t kRowsPerBatch = 64;  // rows for which a block of atoms, once read, stays in the cache
constexpr std::size_t kGramFloats = std::size_t{1} << 22;  // of the Gram matrices of a batch: 16 MiB
constexpr std::size_t kSerialWork = std::size_t{1} << 22;  // multiplications that one thread does within ~0.2 ms

using Atoms = std::vector<Scored<float>>;

bool better(const Scored<float>& a, const Scored<float>& b) { return a.better_than(b); }

// --- fitting, written once and compiled for each path -----------------------------------------------------------

#define SPARSIGHT_INLINE inline __attribute__((always_inline))

// The atoms of a code, m of them, and what is to be fitted.
struct Fit {
    std::size_t m;
    std::size_t width;
    std::size_t stride;         // of gram, a multiple of kLanes
    const float* const* atoms;  // m
    const float* target;        // width
    const float* gram;          // (m, stride): 0 beyond m, as are values and products
    float* products;            // of the atoms with the residual
    float* values;
    float* residual;
};

// Coordinate descent over all values, once. Returns whether one moved by more than kStill of the largest.
SPARSIGHT_INLINE bool sweep(const Fit& fit) {
    float* const __restrict products = fit.products;
    float moved = 0.0f;
    float largest = 0.0f;
    for (std::size_t i = 0; i < fit.m; ++i) {
        const float value = std::max(0.0f, fit.values[i] + products[i]);
        const float step = value - fit.values[i];
        largest = std::max(largest, value);
        if (step == 0.0f) continue;
        moved = std::max(moved, std::abs(step));
        fit.values[i] = value;
        const float* const __restrict gram = fit.gram + i * fit.stride;
        for (std::size_t j = 0; j < fit.m; j += kLanes) {
            for (std::size_t lane = 0; lane < kLanes; ++lane) products[j + lane] -= step * gram[j + lane];
        }
    }
    return moved > kStill * largest;
}

// Fits the values, by so many sweeps at most, and then the residual to them.
SPARSIGHT_INLINE void fit_once(const Fit& fit, int sweeps) {
    while (sweeps-- > 0 && sweep(fit)) {
    }
    float* const __restrict residual = fit.residual;
    std::copy(fit.target, fit.target + fit.width, residual);
    for (std::size_t i = 0; i < fit.m; ++i) {
        const float value = fit.values[i];
        const float* const __restrict atom = fit.atoms[i];
        for (std::size_t d = 0; d < fit.width; ++d) residual[d] -= value * atom[d];
    }
}

void fit_portable(const Fit& fit, int sweeps) { fit_once(fit, sweeps); }
#if SPARSIGHT_X86
SPARSIGHT_AVX2 void fit_avx2(const Fit& fit, int sweeps) { fit_once(fit, sweeps); }
SPARSIGHT_AVX512 void fit_avx512(const Fit& fit, int sweeps) { fit_once(fit, sweeps); }
#endif

struct Routines {
    Tiles tiles;
    void (*fit)(const Fit& fit, int sweeps);
};

Routines routines_of(Path path) {
#if SPARSIGHT_X86
    if (path == Path::avx512) return {tiles_of(path), fit_avx512};
    if (path == Path::avx2) return {tiles_of(path), fit_avx2};
#endif
    return {tiles_of(path), fit_portable};
}

// --- one row --------------------------------------------------------------------------------------------------

// The code of a row as far as it has got.
class Code {
public:
    Code(const PursuitInput& in, std::size_t row)
        : row_(row), stride_((in.k + kLanes - 1) / kLanes * kLanes), values_(stride_), products_(stride_),
          gram_(in.k * stride_) {
        const float* const y = in.y + row * in.width;
        double square = 0.0;
        for (std::size_t d = 0; d < in.width; ++d) square += double{y[d]} * double{y[d]};
        if (std::isfinite(square)) floor_ = static_cast<float>(kNothing * std::sqrt(square));
    }

    std::size_t row() const { return row_; }
    std::size_t size() const { return chosen_.size(); }
    bool has(uint32_t atom) const { return std::find(chosen_.begin(), chosen_.end(), atom) != chosen_.end(); }

    std::vector<uint32_t> candidates;

    // Adds the best candidates, `picks` at most, one by one, and keeps the residual right. Returns whether the code has
    // room for more and got any.
    bool extend(const PursuitInput& in, const Routines& with, std::size_t picks, float* residual) {
        const std::size_t before = size();
        const std::size_t end = std::min(in.k, before + picks);
        while (size() < end) {
            const std::size_t best = best_candidate(in, with, residual);
            if (best == candidates.size()) break;
            add(in, with, candidates[best], residual);
            candidates[best] = candidates.back();
            candidates.pop_back();
        }
        return size() > before && size() < in.k;
    }

    // The best values, and the atoms that have one: best first.
    Atoms finish(const PursuitInput& in, const Routines& with, float* residual) {
        fit(in, with, kLastSweeps, residual);
        Atoms atoms;
        for (std::size_t i = 0; i < size(); ++i) {
            if (values_[i] > 0.0f) atoms.push_back({values_[i], chosen_[i], 0});
        }
        std::sort(atoms.begin(), atoms.end(), better);
        return atoms;
    }

private:
    // Place of the candidate with the largest product above the floor, of equal ones the lower atom; or the end.
    std::size_t best_candidate(const PursuitInput& in, const Routines& with, const float* residual) {
        const std::size_t n = candidates.size();
        candidate_rows_.resize(n);
        candidate_products_.resize(n);
        for (std::size_t c = 0; c < n; ++c) candidate_rows_[c] = in.w_dec + candidates[c] * in.width;
        products(with.tiles, residual, candidate_rows_.data(), n, in.width, candidate_products_.data());
        Scored<float> best{floor_, 0, 0};
        std::size_t place = n;
        for (std::size_t c = 0; c < n; ++c) {
            const Scored<float> one{candidate_products_[c], candidates[c], 0};
            if (!one.better_than(best)) continue;
            best = one;
            place = c;
        }
        return place;
    }

    void add(const PursuitInput& in, const Routines& with, uint32_t atom, float* residual) {
        const std::size_t m = size();
        chosen_.push_back(atom);
        rows_.push_back(in.w_dec + atom * in.width);
        float* const own = gram_.data() + m * stride_;
        products(with.tiles, rows_[m], rows_.data(), m + 1, in.width, own);
        for (std::size_t i = 0; i < m; ++i) gram_[i * stride_ + m] = own[i];
        fit(in, with, kSweeps, residual);
    }

    void fit(const PursuitInput& in, const Routines& with, int sweeps, float* residual) {
        products(with.tiles, residual, rows_.data(), size(), in.width, products_.data());
        with.fit({size(), in.width, stride_, rows_.data(), in.y + row_ * in.width, gram_.data(), products_.data(),
                  values_.data(), residual},
                 sweeps);
    }

    std::size_t row_;
    float floor_ = std::numeric_limits<float>::infinity();  // of products that count; none for rows not finite
    std::size_t stride_;
    std::vector<uint32_t> chosen_;
    std::vector<const float*> rows_;  // of the dictionary
    std::vector<float> values_;       // 0 beyond the atoms, as products_ and gram_ (k, stride_)
    std::vector<float> products_;
    std::vector<float> gram_;
    std::vector<const float*> candidate_rows_;
    std::vector<float> candidate_products_;
};

// --- many rows ------------------------------------------------------------------------------------------------

// Rows that take their looks together, so that each reads the dictionary once.
class Batch {
public:
    // Without rounded atoms, every atom is a candidate.
    Batch(const PursuitInput& in, const Routines& with, const RoundedAtoms* atoms, std::size_t threads,
          std::size_t first, std::size_t n_rows)
        : in_(in), with_(with), atoms_(atoms), again_(atoms && !in.once), threads_(threads),
          residuals_(in.y + first * in.width, in.y + (first + n_rows) * in.width) {
        codes_.reserve(n_rows);
        for (std::size_t r = 0; r < n_rows; ++r) codes_.emplace_back(in, first + r);
    }

    // Results are written to rows of `stride`.
    void run(std::size_t stride, int32_t* idx, float* val) {
        while (!codes_.empty()) {
            if (atoms_ != nullptr) {
                look();
            } else {
                take_all();
            }
            for (std::size_t r = codes_.size(); r-- > 0;) {
                float* const residual = residuals_.data() + r * in_.width;
                if (codes_[r].extend(in_, with_, again_ ? kPicks : in_.k, residual) && again_) continue;
                const Atoms atoms = codes_[r].finish(in_, with_, residual);
                for (std::size_t i = 0; i < atoms.size(); ++i) {
                    idx[codes_[r].row() * stride + i] = static_cast<int32_t>(atoms[i].id);
                    val[codes_[r].row() * stride + i] = atoms[i].score;
                }
                drop(r);
            }
        }
    }

private:
    void look() {
        rounded_.assign(*atoms_, residuals_.data(), codes_.size());
        const std::size_t blocks = (in_.n_atoms + RoundedAtoms::kBlock - 1) / RoundedAtoms::kBlock;
        const std::size_t chunks = std::min(threads_, blocks);
        std::vector<std::vector<Shortlist>> found(chunks);
        for_each_item(chunks, threads_, [&](std::size_t chunk) {
            const auto start = [&](std::size_t c) { return c * blocks / chunks * RoundedAtoms::kBlock; };
            found[chunk] = shortlists(start(chunk), std::min(start(chunk + 1), in_.n_atoms));
        });
        for (std::size_t r = 0; r < codes_.size(); ++r) {
            Code& code = codes_[r];
            for (std::size_t chunk = 1; chunk < chunks; ++chunk) found[0][r].merge(found[chunk][r]);
            code.candidates.clear();
            found[0][r].best(in_.candidates, [&](uint32_t atom) { return code.has(atom); },
                             [&](uint32_t atom) { code.candidates.push_back(atom); });
        }
    }

    // The best of the atoms [first, last) for each row: candidates, and as many as may be in its code already.
    std::vector<Shortlist> shortlists(std::size_t first, std::size_t last) const {
        std::vector<Shortlist> lists;
        lists.reserve(codes_.size());
        for (const Code& code : codes_) lists.emplace_back(in_.candidates + code.size());
        std::vector<float> thresholds(codes_.size(), 0.0f);
        atoms_->score(rounded_, thresholds.data(), first, last,
                      [&](std::size_t r, std::size_t atom, const float* scores, uint64_t above) {
                          lists[r].offer(atom, scores, above);
                          thresholds[r] = lists[r].threshold();
                      });
        return lists;
    }

    void take_all() {
        for (Code& code : codes_) {
            code.candidates.clear();
            for (std::size_t atom = 0; atom < in_.n_atoms; ++atom) {
                if (!code.has(static_cast<uint32_t>(atom))) code.candidates.push_back(static_cast<uint32_t>(atom));
            }
        }
    }

    // Puts the last row in the place of one that is done.
    void drop(std::size_t r) {
        const float* const last = residuals_.data() + (codes_.size() - 1) * in_.width;
        std::copy(last, last + in_.width, residuals_.data() + r * in_.width);
        std::swap(codes_[r], codes_.back());
        codes_.pop_back();
    }

    const PursuitInput& in_;
    const Routines& with_;
    const RoundedAtoms* const atoms_;
    const bool again_;  // whether candidates are looked for more than once
    const std::size_t threads_;
    RoundedAtoms::Rows rounded_;
    std::vector<float> residuals_;  // (codes, width)
    std::vector<Code> codes_;
};

}  // namespace

void pursue(const PursuitInput& input, std::size_t threads, Path path, int32_t* idx, float* val) {
    std::fill(idx, idx + input.n_rows * input.k, -1);
    std::fill(val, val + input.n_rows * input.k, 0.0f);
    if (input.n_rows == 0 || input.n_atoms == 0) return;
    PursuitInput in = input;
    in.k = std::min(in.k, in.n_atoms);
    if (in.n_rows * in.n_atoms * in.width < kSerialWork) threads = 1;
    const Routines with = routines_of(path);
    std::optional<RoundedAtoms> atoms;
    if (in.candidates > 0 && in.candidates < in.n_atoms) atoms.emplace(in.w_dec, in.n_atoms, in.width, threads, path);
    // Few rows: their looks are shared out as well, so that one row's coding uses every thread.
    const std::size_t share = ((in.n_rows + threads - 1) / threads + kRowTile - 1) / kRowTile * kRowTile;
    const std::size_t rows = std::clamp<std::size_t>(kGramFloats / (in.k * in.k), 1, std::min(kRowsPerBatch, share));
    const std::size_t batches = (in.n_rows + rows - 1) / rows;
    const std::size_t threads_each = std::max<std::size_t>(threads / batches, 1);
    for_each_item(batches, threads, [&](std::size_t i) {
        Batch batch(in, with, atoms ? &*atoms : nullptr, threads_each, i * rows, std::min(rows, in.n_rows - i * rows));
        batch.run(input.k, idx, val);
    });
}

}  // namespace sparsight
