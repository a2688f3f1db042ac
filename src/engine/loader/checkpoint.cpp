#include "fathom/engine/checkpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>

#include "core/file.hpp"
#include "core/json.hpp"
#include "engine/loader/index.hpp"
#include "engine/loader/safetensors.hpp"
#include "fathom/core/buffer.hpp"
#include "fathom/core/error.hpp"
#include "fathom/engine/plan.hpp"

namespace fathom {
namespace fs = std::filesystem;
using safetensors::Entry;

namespace {

constexpr std::int64_t kBlock = 128;
constexpr std::int64_t kMaxIndexBytes = std::int64_t{1} << 30;
constexpr std::string_view kIndexName = "model.safetensors.index.json";

struct Shard {
  fs::path path;
  MappedFile file;
};

struct Stored {
  Entry entry;
  std::size_t shard = 0;
};

std::int64_t blocks(std::int64_t n) { return (n + kBlock - 1) / kBlock; }

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text;
  for (const std::int64_t size : shape)
    text += (text.empty() ? "" : ",") + (size < 0 ? "any" : std::to_string(size));
  return "[" + text + "]";
}

std::span<const std::int64_t> shape_of(const Entry& entry) {
  return std::span(entry.shape).first(static_cast<std::size_t>(entry.rank));
}

bool same_shape(std::span<const std::int64_t> got, std::span<const std::int64_t> expected) {
  if (got.size() != expected.size()) return false;
  for (std::size_t axis = 0; axis < got.size(); ++axis) {
    if (expected[axis] >= 0 && got[axis] != expected[axis]) return false;
  }
  return true;
}

// "must be f8e4m3, is F32"; nothing if dtype and shape fit.
std::optional<std::string> mismatch(const Entry& entry, std::span<const DType> allowed,
                                    std::span<const std::int64_t> shape) {
  const auto dtype = entry.dtype();
  if (!dtype || std::find(allowed.begin(), allowed.end(), *dtype) == allowed.end()) {
    std::string names;
    for (const DType each : allowed) {
      names += (names.empty() ? "" : " or ") + std::string(safetensors::type_name(each));
    }
    return fmt::format("tensor '{}' must be {}, is {}", printable(entry.name), names, entry.type_name());
  }
  if (!same_shape(shape_of(entry), shape)) {
    return fmt::format("tensor '{}' must have shape {}, has {}", printable(entry.name), shape_text(shape),
                       shape_text(shape_of(entry)));
  }
  return std::nullopt;
}

// Positive, and the mantissa is zero, or the one subnormal that UE8M0 has: 2^-127.
bool is_power_of_two(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return bits == 0x00400000u || (bits != 0 && (bits & 0x807fffffu) == 0 && bits != 0x7f800000u);
}

}  // namespace

struct Checkpoint::Impl {
  fs::path directory;
  ModelConfig config;
  std::vector<Shard> shards;
  std::vector<Stored> tensors;
  std::unordered_map<std::string_view, std::size_t> rows;  // name -> row of tensors
  std::vector<std::string> missing_files;
  // Tensors whose bytes in the file are not aligned for their dtype.
  mutable std::mutex aligned_mutex;
  mutable std::unordered_map<std::size_t, Buffer> aligned;

  void open_files(bool allow_missing);
  void add_shard(const fs::path& path);
  void index_names();
  void compare_index(const safetensors::Index& index, const fs::path& path, bool allow_missing) const;
  const Stored* find(std::string_view name) const {
    const auto place = rows.find(name);
    return place == rows.end() ? nullptr : &tensors[place->second];
  }
  TensorView view(const Stored& stored) const;
  [[noreturn]] void fail(const Stored& stored, std::string_view what) const {
    throw FileError(fmt::format("{}: {}", shards[stored.shard].path.string(), what));
  }
  void check_scales(const Stored& stored, const TensorView& scale) const;
  std::optional<std::string> problem(const ExpectedTensor& expected) const;
  template <class Visit>
  void visit(std::span<const ExpectedTensor> list, Visit visit_one) const;
};

void Checkpoint::Impl::open_files(bool allow_missing) {
  const fs::path single = directory / "model.safetensors";
  const fs::path index_path = directory / kIndexName;
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(single, ignored))) {
    add_shard(single);
    index_names();
    return;
  }
  if (!fs::exists(fs::symlink_status(index_path, ignored))) {
    throw FileError(
        fmt::format("{}: must hold model.safetensors or {}, holds neither", directory.string(), kIndexName));
  }
  const auto index = safetensors::parse_index(read_file(index_path, kMaxIndexBytes), index_path.string());
  for (const std::string& name : index.shards) {
    const fs::path path = directory / name;
    if (fs::exists(fs::symlink_status(path, ignored))) {
      add_shard(path);
    } else if (allow_missing) {
      missing_files.push_back(name);
    } else {
      throw FileError(fmt::format("{}: is missing, and {} names it", path.string(), kIndexName));
    }
  }
  index_names();
  compare_index(index, index_path, allow_missing);
}

void Checkpoint::Impl::add_shard(const fs::path& path) {
  Shard shard{path, MappedFile(path)};
  const std::span<const std::byte> bytes(shard.file.data(), static_cast<std::size_t>(shard.file.size()));
  for (Entry& entry : safetensors::parse_header(bytes, path.string())) {
    tensors.push_back({std::move(entry), shards.size()});
  }
  shards.push_back(std::move(shard));
}

void Checkpoint::Impl::index_names() {
  rows.reserve(tensors.size());
  for (std::size_t row = 0; row < tensors.size(); ++row) {
    const auto [place, is_new] = rows.emplace(tensors[row].entry.name, row);
    if (!is_new) {
      fail(tensors[row], fmt::format("tensor '{}' is also in {}", printable(tensors[row].entry.name),
                                     shards[tensors[place->second].shard].path.filename().string()));
    }
  }
}

void Checkpoint::Impl::compare_index(const safetensors::Index& index, const fs::path& path,
                                     bool allow_missing) const {
  for (const auto& [name, row] : index.tensors) {
    const std::string& file = index.shards[static_cast<std::size_t>(row)];
    const Stored* stored = find(name);
    if (stored != nullptr && shards[stored->shard].path.filename() == file) continue;
    if (stored == nullptr && allow_missing) continue;
    throw FileError(fmt::format("{}: tensor '{}' must be in {}, is {}{}", path.string(), printable(name),
                                printable(file), stored == nullptr ? "nowhere" : "in ",
                                stored == nullptr ? "" : shards[stored->shard].path.filename().string()));
  }
}

TensorView Checkpoint::Impl::view(const Stored& stored) const {
  TensorView view{.data = shards[stored.shard].file.data() + stored.entry.begin,
                  .dtype = *stored.entry.dtype(),
                  .rank = stored.entry.rank,
                  .shape = stored.entry.shape};
  std::int64_t step = 1;
  for (int axis = view.rank; axis-- > 0;) {
    view.stride[static_cast<std::size_t>(axis)] = step;
    step *= view.size(axis);
  }
  if (stored.entry.begin % size_of(view.dtype) == 0 || view.count() == 0) return view;
  const std::scoped_lock lock(aligned_mutex);
  const auto [place, is_new] = aligned.try_emplace(static_cast<std::size_t>(&stored - tensors.data()));
  if (is_new) {
    const std::int64_t bytes = stored.entry.end - stored.entry.begin;
    place->second = Buffer(bytes);
    std::memcpy(place->second.data(), view.data, static_cast<std::size_t>(bytes));
  }
  view.data = place->second.data();
  return view;
}

void Checkpoint::Impl::check_scales(const Stored& stored, const TensorView& scale) const {
  const bool ue8m0 = config.quantization_config->ue8m0;
  const auto values = std::span(scale.as<const float>(), static_cast<std::size_t>(scale.count()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (ue8m0 ? is_power_of_two(values[i]) : std::isfinite(values[i])) continue;
    const auto width = static_cast<std::size_t>(std::max<std::int64_t>(scale.size(1), 1));
    fail(stored, fmt::format("tensor '{}' must hold {}, has {} at [{},{}]", printable(stored.entry.name),
                             ue8m0 ? "powers of two (scale_fmt is ue8m0)" : "finite values", values[i],
                             i / width, i % width));
  }
}

std::optional<std::string> Checkpoint::Impl::problem(const ExpectedTensor& expected) const {
  const Stored* stored = find(expected.name);
  if (stored == nullptr) return std::nullopt;
  std::vector<DType> allowed;
  for (const DType dtype : {DType::f8e4m3, DType::bf16, DType::f32}) {
    if (expected.allows(dtype) && (dtype != DType::f8e4m3 || config.quantization_config))
      allowed.push_back(dtype);
  }
  return mismatch(stored->entry, allowed,
                  std::span(expected.shape).first(static_cast<std::size_t>(expected.rank)));
}

// visit_one(expected tensor, whether the checkpoint must have it). A matrix that is not f8e4m3 needs no
// scale.
template <class Visit>
void Checkpoint::Impl::visit(std::span<const ExpectedTensor> list, Visit visit_one) const {
  bool matrix_is_wide = false;
  for (const ExpectedTensor& expected : list) {
    if (expected.kind == TensorKind::matrix) {
      const Stored* stored = find(expected.name);
      matrix_is_wide = stored != nullptr && stored->entry.dtype() != DType::f8e4m3;
    }
    visit_one(expected, expected.kind != TensorKind::optional &&
                            !(expected.kind == TensorKind::scale && matrix_is_wide));
  }
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const fs::path& dir, const CheckpointOptions& options) {
  std::error_code error;
  if (!fs::is_directory(dir, error)) {
    throw FileError(fmt::format("{}: must be a directory with config.json and safetensors files, {}",
                                dir.string(), fs::exists(dir, error) ? "is a file" : "does not exist"));
  }
  auto impl = std::make_unique<Impl>();
  impl->directory = dir;
  impl->config = ModelConfig::load(dir);
  impl->open_files(options.allow_missing);
  return Checkpoint(std::move(impl));
}

const ModelConfig& Checkpoint::config() const { return impl_->config; }
const fs::path& Checkpoint::directory() const { return impl_->directory; }
const std::vector<std::string>& Checkpoint::missing_files() const { return impl_->missing_files; }
bool Checkpoint::has(std::string_view name) const { return impl_->find(name) != nullptr; }

TensorView Checkpoint::tensor(std::string_view name, std::initializer_list<DType> allowed,
                              std::initializer_list<std::int64_t> shape) const {
  const Stored* stored = impl_->find(name);
  if (stored == nullptr) {
    throw FileError(fmt::format("{}: tensor '{}' is missing", impl_->directory.string(), name));
  }
  if (const auto what = mismatch(stored->entry, allowed, shape)) impl_->fail(*stored, *what);
  return impl_->view(*stored);
}

Weight Checkpoint::weight(std::string_view name, std::int64_t n, std::int64_t k) const {
  Weight weight{.values = tensor(name, {DType::f8e4m3, DType::bf16, DType::f32}, {n, k})};
  if (weight.values.dtype != DType::f8e4m3) return weight;
  if (!impl_->config.quantization_config) {
    impl_->fail(*impl_->find(name),
                fmt::format("tensor '{}' is F8_E4M3, but config.json has no quantization_config", name));
  }
  const std::string scale_name = std::string(name) + "_scale_inv";
  weight.scale = tensor(scale_name, {DType::f32}, {blocks(n), blocks(k)});
  impl_->check_scales(*impl_->find(scale_name), weight.scale);
  return weight;
}

std::vector<std::string> Checkpoint::missing() const { return compare(expected_tensors(config())).missing; }

Comparison Checkpoint::compare(std::span<const ExpectedTensor> expected) const {
  Comparison difference;
  impl_->visit(expected, [&](const ExpectedTensor& tensor, bool needed) {
    if (const auto what = impl_->problem(tensor)) difference.wrong.push_back(*what);
    if (has(tensor.name)) return;
    if (needed) {
      difference.missing.push_back(tensor.name);
    } else {
      ++difference.left_out;
    }
  });
  return difference;
}

void Checkpoint::check() const {
  std::int64_t others = -1;
  std::string first;
  impl_->visit(expected_tensors(config()), [&](const ExpectedTensor& expected, bool needed) {
    const Stored* stored = impl_->find(expected.name);
    if (stored == nullptr && !needed) return;
    const auto what = stored == nullptr ? std::optional(fmt::format("tensor '{}' is missing", expected.name))
                                        : impl_->problem(expected);
    if (!what) return;
    if (++others > 0) return;
    const fs::path& file = stored == nullptr ? impl_->directory : impl_->shards[stored->shard].path;
    first = fmt::format("{}: {}", file.string(), *what);
  });
  if (others == 0) throw FileError(first);
  if (others > 0) throw FileError(fmt::format("{} (and {} more)", first, others));
}

std::int64_t Checkpoint::tensor_count() const { return std::ssize(impl_->tensors); }

std::int64_t Checkpoint::total_bytes() const {
  std::int64_t total = 0;
  for (const Stored& stored : impl_->tensors) total += stored.entry.end - stored.entry.begin;
  return total;
}

void Checkpoint::release_pages(const TensorView& view) const {
  if (!view.given() || view.count() == 0) return;
  std::int64_t last = 0;
  for (int axis = 0; axis < view.rank; ++axis) last += (view.size(axis) - 1) * view.step(axis);
  const auto* begin = view.as<std::byte>();
  const auto* end = begin + (last + 1) * size_of(view.dtype);
  for (const Shard& shard : impl_->shards) {
    if (begin < shard.file.data() || end > shard.file.data() + shard.file.size()) continue;
    // Neighbours on the same pages lose nothing: the pages are clean copies of the file.
    const std::int64_t page = ::sysconf(_SC_PAGESIZE);
    const std::int64_t offset = (begin - shard.file.data()) / page * page;
    ::madvise(shard.file.data() + offset, static_cast<std::size_t>(end - shard.file.data() - offset),
              MADV_DONTNEED);
    return;
  }
}

}  // namespace fathom
