// Checkpoint: the tensors of a model directory, mapped into memory and never copied.
#pragma once
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/tensor.hpp"
#include "fathom/engine/config.hpp"
#include "fathom/ops/weight.hpp"

namespace fathom {

struct CheckpointOptions {
  /// Open what there is although shards are missing or the index names tensors that their shard lacks;
  /// missing() lists the tensors. For reporting, not for running.
  bool allow_missing = false;
};

struct ExpectedTensor;  // fathom/engine/plan.hpp

/// How a checkpoint differs from what its config asks for.
struct Comparison {
  std::vector<std::string> missing;  ///< names of tensors that it must have
  std::int64_t left_out = 0;         ///< tensors that it lacks and need not have
  std::vector<std::string> wrong;    ///< one line for each tensor with another dtype or shape
};

/// A directory with config.json and either model.safetensors or model.safetensors.index.json and its shards.
/// Views stay valid, and the files mapped, while the Checkpoint lives. Move-only. Its const functions may be
/// called from any thread.
class Checkpoint {
 public:
  /// Maps every file and checks every header: offsets inside of the file and free of overlaps, sizes that
  /// agree with dtype and shape, no tensor twice. Does not compare the tensors with the config: see check().
  /// Throws FileError.
  static Checkpoint open(const std::filesystem::path& dir, const CheckpointOptions& options = {});
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const ModelConfig& config() const;
  const std::filesystem::path& directory() const;

  bool has(std::string_view name) const;
  /// Throws FileError if the tensor is missing or has another dtype or shape. -1 in `shape` accepts any size.
  TensorView tensor(std::string_view name, std::initializer_list<DType> allowed,
                    std::initializer_list<std::int64_t> shape) const;
  /// The matrix `name` ("....weight") with its scale `name`_scale_inv. Throws FileError as tensor() does, if
  /// an f8e4m3 matrix has no scale, and if a scale is not finite or, where the config says ue8m0, no power of
  /// two.
  Weight weight(std::string_view name, std::int64_t n, std::int64_t k) const;

  /// Names of the tensors the config asks for that are not here, in the order of expected_tensors().
  std::vector<std::string> missing() const;
  /// Holds the tensors against a list, expected_tensors(config()) as a rule. Reads no weights.
  Comparison compare(std::span<const ExpectedTensor> expected) const;
  /// Shards that the index names and that are not here (only with allow_missing).
  const std::vector<std::string>& missing_files() const;
  /// Throws FileError naming the first tensor that is missing or has a wrong dtype or shape, and the number
  /// of such tensors. Reads no weights.
  void check() const;

  std::int64_t tensor_count() const;
  /// Bytes of all tensors.
  std::int64_t total_bytes() const;

  /// Lets the system drop a view's pages from memory; they come back from the file when touched again.
  void release_pages(const TensorView& view) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
