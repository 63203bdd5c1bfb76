// Matrices in the kernel layout, their activations and the choice of an instruction set: native twin of
// mediant.kernels.packed_matrix.
#include "packed_matrix.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

#include "registry.h"
#include "tile_registry.h"

namespace mediant {

namespace {

const TileRegistration *&registered() {
    static const TileRegistration *first = nullptr;
    return first;
}

const TileKernels *best() {
    const TileKernels *found = nullptr;
    for (const auto *r = registered(); r; r = r->next)
        if (r->kernels->available() && (!found || r->kernels->rank > found->rank)) found = r->kernels;
    return found;
}

const TileKernels *&chosen() {
    static const TileKernels *kernels = best();
    return kernels;
}

constexpr size_t kAlignment = 64;

constexpr int64_t kMargin = 256;

int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

constexpr int width_sum(int layout) {
    int bits = 0;
    for (int d = 0; d < kDigits; ++d) bits += kWidths[layout][d];
    return bits;
}

int code_at(const PackedMatrix &m, const PackedRun &run, int64_t panel, int64_t column, int row) {
    const int64_t block = column / kBlock;
    const int quad = static_cast<int>(column % kBlock / 4), lane = 4 * row + static_cast<int>(column % 4);
    int code = 0;
    for (int d = 0; d < kDigits && kWidths[run.layout][d]; ++d) {
        const int width = kWidths[run.layout][d], per_vector = 8 / width;
        const int place = width == 1 ? (quad & 1) | (quad >> 1 & 1) << 2 | (quad >> 2) << 1 : quad % per_vector;
        const uint8_t *at = run.digits[d] + (panel * m.blocks + block) * kBlock * width;
        code = code << width | (at[32 * (quad / per_vector) + lane] >> (width * place) & ((1 << width) - 1));
    }
    return code;
}

// The whole number of the level at a place (PackedRun).
int number_at(const PackedMatrix &m, const PackedRun &run, int64_t panel, int64_t column, int row) {
    const int code = code_at(m, run, panel, column, row);
    if (width_sum(run.layout) > 5) return code;
    if (run.layout != kTwoBits) return run.levels[code];
    const bool upper = column % 8 >= 4;
    const int other = code_at(m, run, panel, upper ? column - 4 : column + 4, row);
    return upper ? run.levels[16 + other + 4 * code] : run.levels[code + 4 * other];
}

}  // namespace

TileRegistration::TileRegistration(const TileKernels *kernels) : kernels(kernels), next(registered()) {
    registered() = this;
}

const TileKernels &tile_kernels() { return *chosen(); }

const TileKernels *force_tile_kernels(const char *name) {
    for (const auto *r = registered(); r; r = r->next)
        if (std::strcmp(r->kernels->name, name) == 0 && r->kernels->available()) return chosen() = r->kernels;
    return nullptr;
}

Activations::~Activations() {
    std::free(storage_);
    delete[] signs_;
}

void Activations::resize(int64_t columns, int64_t count, bool rotated, uint64_t seed, bool precise,
                         const float *ranges) {
    const int64_t blocks = (columns + kBlock - 1) / kBlock, numbers = rounded(blocks * kBlock * count);
    const int64_t floats = rounded(blocks * count * 4);
    const int64_t bytes = 2 * numbers + 2 * floats + kMargin;
    if (bytes > capacity_) {
        std::free(storage_);
        storage_ = nullptr, capacity_ = 0;
        storage_ = std::aligned_alloc(kAlignment, static_cast<size_t>(rounded(bytes)));
        if (!storage_) throw std::bad_alloc();
        capacity_ = bytes;
    }
    auto *at = static_cast<uint8_t *>(storage_);
    view_ = {columns, blocks, count, precise, reinterpret_cast<int8_t *>(at), reinterpret_cast<int8_t *>(at + numbers),
             reinterpret_cast<float *>(at + 2 * numbers), reinterpret_cast<float *>(at + 2 * numbers + floats), ranges};
    if (rotated && (columns != signed_columns_ || seed != seed_)) {
        delete[] signs_;
        signs_ = nullptr;
        signs_ = new float[static_cast<size_t>(columns)];
        rotation_signs(columns, seed, signs_);
        signed_columns_ = columns, seed_ = seed;
    }
    rotated_ = rotated;
}

void Activations::fill(const float *x, int64_t stride, int64_t begin, int64_t end, const uint8_t *own) {
    thread_local std::vector<float> scratch;
    if (rotated_ && static_cast<int64_t>(scratch.size()) < 2 * view_.columns)
        scratch.resize(static_cast<size_t>(2 * view_.columns));
    ActivationView without_ranges = view_;
    without_ranges.ranges = nullptr;
    for (int64_t n = begin; n < end; ++n)
        tile_kernels().prepare(x + n * stride, rotated_ ? signs_ : nullptr, scratch.data(), n,
                               own && own[n] ? without_ranges : view_);
}

void prepare(const float *x, int64_t count, int64_t stride, int64_t columns, bool rotated, uint64_t seed, bool precise,
             Activations &out) {
    out.resize(columns, count, rotated, seed, precise);
    out.fill(x, stride, 0, count);
}

void rotation_signs(int64_t columns, uint64_t seed, float *out) {
    for (int64_t j = 0; j < columns; ++j) {
        uint64_t z = seed + static_cast<uint64_t>(j + 1) * 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z = z ^ (z >> 31);
        out[j] = z >> 63 ? -1.0f : 1.0f;
    }
}

void decode_row(const PackedMatrix &m, int64_t row, float *out) {
    const PackedRun *run = m.runs;
    while (row >= run->first_row + run->rows) ++run;
    const int64_t panel = (row - run->first_row) / kPanel;
    const int in_panel = static_cast<int>((row - run->first_row) % kPanel);
    const uint8_t *codes = m.scale_codes + (run->first_panel + panel) * m.groups * m.scale_bits;
    const uint32_t bits = static_cast<uint32_t>(m.row_scales[row]) << 16;
    float whole;
    std::memcpy(&whole, &bits, 4);
    for (int64_t j = 0; j < m.columns; ++j) {
        const int64_t group = j / (kBlock * m.blocks_per_group);
        uint64_t word = 0;
        std::memcpy(&word, codes + group * m.scale_bits, static_cast<size_t>(m.scale_bits));
        const float factor = m.factors[word >> (m.scale_bits * in_panel) & ((1u << m.scale_bits) - 1)];
        const int number = number_at(m, *run, panel, j, in_panel);
        const float level = run->unit * (static_cast<float>(number) - run->zero);
        out[j] = whole * factor * level;
    }
    if (m.rotated) {
        thread_local std::vector<float> scratch;
        scratch.resize(static_cast<size_t>(2 * m.columns));
        rotation_signs(m.columns, m.seed, scratch.data() + m.columns);
        tile_kernels().rotate(out, scratch.data() + m.columns, scratch.data(), m.columns, true);
    }
}

namespace {

using Part = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Halves = nb::ndarray<const uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutRows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char *what) {
    if (!holds) throw std::invalid_argument(what);
}

// A matrix as Python builds it, with the arrays that it looks at. Runs are added in order, then it is sealed.
struct HeldMatrix : PackedMatrix {
    std::vector<PackedRun> held;
    std::vector<Part> parts;
    Halves held_scales;
    std::vector<float> held_ranges;

    HeldMatrix(int64_t row_count, int64_t column_count, int64_t group, Halves row_scale, Part codes, int bits,
               Numbers scale_factors, bool is_rotated, uint64_t rotation_seed)
        : held_scales(row_scale) {
        require(row_count > 0 && column_count > 0 && column_count < int64_t{1} << 31 && row_count < int64_t{1} << 40,
                "a packed matrix has from 1 to 2^40 rows and 2^31 columns");
        require(group > 0 && group % kBlock == 0, "the group of a packed matrix is a multiple of 32");
        require(bits >= 2 && bits <= 8 && scale_factors.size() == size_t{1} << bits,
                "a packed matrix has scale codes of 2 to 8 bits and a factor for each");
        require(static_cast<int64_t>(row_scale.size()) == row_count, "a packed matrix has a scale for each row");
        rows = row_count, columns = column_count, blocks = (columns + kBlock - 1) / kBlock, panels = 0;
        runs = nullptr, run_count = 0, row_scales = row_scale.data(), scale_codes = codes.data();
        groups = (columns + group - 1) / group, blocks_per_group = group / kBlock, scale_bits = bits;
        std::fill(factors, factors + 256, 0.0f);
        std::copy(scale_factors.data(), scale_factors.data() + scale_factors.size(), factors);
        rotated = is_rotated, seed = rotation_seed;
        ranges = nullptr, ranges_key = 0;
        parts.push_back(codes);
    }

    // Fixed ranges of the activations' blocks, or none. Not while the matrix is in use.
    void set_ranges(std::optional<Numbers> given) {
        if (given) {
            require(static_cast<int64_t>(given->size()) == blocks, "a packed matrix has a range for every 32 columns");
            for (size_t b = 0; b < given->size(); ++b)
                require(given->data()[b] >= 0 && given->data()[b] <= __FLT_MAX__, "a range is not a finite magnitude");
        }
        held_ranges.clear(), ranges = nullptr, ranges_key = 0;
        if (!given) return;
        held_ranges.assign(given->data(), given->data() + given->size());
        ranges = held_ranges.data(), ranges_key = 0xCBF29CE484222325u;
        for (float range : held_ranges) {
            uint32_t bits;
            std::memcpy(&bits, &range, 4);
            ranges_key = (ranges_key ^ bits) * 0x100000001B3u;
        }
        ranges_key |= 1;
    }

    // A run of `count` rows: the digits' regions, the whole number of every code's level, and what makes it a level.
    void add(int64_t count, int layout, const std::vector<Part> &regions, Part levels, float zero, float unit) {
        require(count > 0 && layout >= 0 && layout < kLayouts, "a run has rows and one of the lists of digits");
        require(levels.size() == 32, "a run has 32 levels");
        PackedRun run{};
        run.first_row = held.empty() ? 0 : held.back().first_row + held.back().rows;
        run.rows = count, run.first_panel = panels, run.panels = (count + kPanel - 1) / kPanel;
        require(run.first_row + count <= rows, "the runs have more rows than the matrix");
        run.bits = width_sum(layout), run.layout = layout, run.zero = zero, run.unit = unit;
        std::copy(levels.data(), levels.data() + 32, run.levels);
        const int most = run.bits <= 3 ? 31 : run.bits == 4 ? 63 : 127;
        for (uint8_t level : run.levels) require(level <= most, "a level is too large for the sums of its bit width");
        size_t d = 0;
        for (; d < kDigits && kWidths[layout][d]; ++d) {
            require(d < regions.size() && static_cast<int64_t>(regions[d].size()) ==
                                              run.panels * blocks * kBlock * kWidths[layout][d],
                    "the regions of a run do not have its digits' sizes");
            run.digits[d] = regions[d].data();
            parts.push_back(regions[d]);
        }
        require(d == regions.size(), "a run has more regions than digits");
        panels += run.panels;
        held.push_back(run);
        runs = held.data(), run_count = static_cast<int64_t>(held.size());
    }

    void seal() const {
        require(!held.empty() && held.back().first_row + held.back().rows == rows, "the runs lack rows of the matrix");
        require(static_cast<int64_t>(parts[0].size()) == panels * groups * scale_bits + 1,
                "the scale codes do not have the size of the panels' groups and one byte");
    }
};

void multiply_rows(const HeldMatrix &m, Rows x, bool precise, int threads, OutRows y) {
    m.seal();
    const int64_t count = static_cast<int64_t>(x.shape(0));
    require(static_cast<int64_t>(x.shape(1)) == m.columns, "the vectors do not have as many numbers as the matrix columns");
    require(static_cast<int64_t>(y.shape(0)) == count && static_cast<int64_t>(y.shape(1)) == m.rows,
            "there is not as much room for results as rows");
    nb::gil_scoped_release release;
    thread_local Activations activations;
    Activations &shared = activations;
    shared.resize(m.columns, count, m.rotated, m.seed, precise, m.ranges);
    parallel_for(count, std::min<int64_t>(threads, count), [&](int64_t begin, int64_t end) {
        shared.fill(x.data(), m.columns, begin, end);
    });
    parallel_for(m.panels, threads, [&](int64_t begin, int64_t end) { multiply(m, shared, y.data(), m.rows, begin, end); });
}

// All threads wait for one another; they spin a little, then let others have the processor.
class Barrier {
public:
    explicit Barrier(int count) : count_(count) {}
    void wait() {
        const int round = round_.load(std::memory_order_acquire);
        if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
            waiting_.store(0, std::memory_order_relaxed);
            round_.fetch_add(1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
            if (spins > 2000) std::this_thread::yield();
    }

private:
    const int count_;
    std::atomic<int> waiting_{0}, round_{0};
};

// Several matrices of equal shape times the same vectors, one after another as in a decoder: the threads are started
// once and meet after each, and the vectors are prepared anew for each.
void multiply_each(const std::vector<const HeldMatrix *> &matrices, Rows x, bool precise, int threads, OutRows y) {
    const int64_t count = static_cast<int64_t>(x.shape(0));
    for (const HeldMatrix *m : matrices) {
        m->seal();
        require(m->columns == static_cast<int64_t>(x.shape(1)) && m->rows == static_cast<int64_t>(y.shape(1)) &&
                    count == static_cast<int64_t>(y.shape(0)),
                "the matrices, vectors and results do not fit together");
    }
    threads = std::max(threads, 1);
    nb::gil_scoped_release release;
    Activations activations;
    if (!matrices.empty())
        activations.resize(x.shape(1), count, matrices[0]->rotated, matrices[0]->seed, precise);
    Barrier barrier(threads);
    parallel_for(threads, threads, [&](int64_t thread, int64_t) {
        for (const HeldMatrix *m : matrices) {
            activations.fill(x.data(), m->columns, count * thread / threads, count * (thread + 1) / threads);
            barrier.wait();
            multiply(*m, activations, y.data(), m->rows, m->panels * thread / threads,
                     m->panels * (thread + 1) / threads);
            barrier.wait();
        }
    });
}

void decode_one(const HeldMatrix &m, int64_t row, Out out) {
    m.seal();
    require(row >= 0 && row < m.rows, "there is no such row");
    require(static_cast<int64_t>(out.size()) == m.columns, "there is not as much room as columns");
    decode_row(m, row, out.data());
}

std::vector<std::string> instruction_sets() {
    std::vector<const TileKernels *> found;
    for (const auto *r = registered(); r; r = r->next)
        if (r->kernels->available()) found.push_back(r->kernels);
    std::sort(found.begin(), found.end(), [](const auto *a, const auto *b) { return a->rank > b->rank; });
    std::vector<std::string> names;
    for (const auto *kernels : found) names.emplace_back(kernels->name);
    return names;
}

}  // namespace

}  // namespace mediant

MEDIANT_KERNEL(packed_matrix) {
    using namespace mediant;
    nb::class_<PackedMatrix>(m, "PackedView")
        .def_ro("rows", &PackedMatrix::rows)
        .def_ro("columns", &PackedMatrix::columns)
        .def_ro("panels", &PackedMatrix::panels);
    nb::class_<HeldMatrix, PackedMatrix>(m, "PackedMatrix")
        .def(nb::init<int64_t, int64_t, int64_t, Halves, Part, int, Numbers, bool, uint64_t>(), nb::arg("rows"),
             nb::arg("columns"), nb::arg("group"), nb::arg("row_scales"), nb::arg("scale_codes"), nb::arg("scale_bits"),
             nb::arg("factors"), nb::arg("rotated"), nb::arg("seed"))
        .def("add", &HeldMatrix::add, nb::arg("rows"), nb::arg("layout"), nb::arg("regions"), nb::arg("levels"),
             nb::arg("zero"), nb::arg("unit"))
        .def("seal", &HeldMatrix::seal)
        .def("set_ranges", &HeldMatrix::set_ranges, nb::arg("ranges").none())
        .def("multiply", &multiply_rows, nb::arg("x"), nb::arg("precise"), nb::arg("threads"), nb::arg("y").noconvert())
        .def("row", &decode_one, nb::arg("row"), nb::arg("out").noconvert());
    m.def("multiply_each", &multiply_each, nb::arg("matrices"), nb::arg("x"), nb::arg("precise"), nb::arg("threads"),
          nb::arg("y").noconvert());
    m.def("instruction_sets", &instruction_sets, "Those that this processor has, the best first.");
    m.def("instruction_set", [] { return std::string(tile_kernels().name); });
    m.def("force_instruction_set", [](const std::string &name) { return force_tile_kernels(name.c_str()) != nullptr; },
          nb::arg("name"));
}
