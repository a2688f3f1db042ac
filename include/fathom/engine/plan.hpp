// ModelPlan: what a model needs, told from its config and the headers of its files, without reading a weight.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fathom/core/tensor.hpp"
#include "fathom/engine/config.hpp"

namespace fathom {

class Checkpoint;

enum class TensorKind : std::uint8_t {
  matrix,    ///< f8e4m3 with a scale, bf16 or f32
  scale,     ///< f32, of the matrix before it
  plain,     ///< bf16 or f32: norms, embedding, head, router
  bias,      ///< f32, of the router; set by balancing, not trained: no parameter
  optional,  ///< as plain, and equal to another tensor if it is absent: the MTP layer's embedding and head
};

/// A tensor the config asks for.
struct ExpectedTensor {
  std::string name;
  TensorKind kind = TensorKind::plain;
  int rank = 0;
  std::array<std::int64_t, 2> shape{};
  std::int64_t layer = -1;  ///< -1: belongs to no layer
  bool routed_expert = false;

  /// "f8e4m3, bf16 or f32"
  std::string_view dtypes() const;
  bool allows(DType dtype) const;
  std::int64_t count() const { return rank == 2 ? shape[0] * shape[1] : shape[0]; }
};

/// All of them, layer by layer; a scale follows its matrix and is listed only if the config says fp8.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);

struct CacheBytes {
  std::string_view name;       ///< as --kv-cache takes it: "fp8", "bf16", "f32"
  std::int64_t kv = 0;         ///< bytes per token in all layers, the MTP layer included
  std::int64_t index_fp8 = 0;  ///< index keys with --precision fp8
  std::int64_t index_f32 = 0;  ///< index keys with --precision fp32
};

struct ModelPlan {
  std::vector<std::pair<std::string, std::string>> architecture;  ///< rows of a table: what, value
  std::int64_t parameters = 0;                                    ///< embedding and head once; without scales
  std::int64_t mtp_parameters = 0;                                ///< of these, in the MTP layer
  std::int64_t active_parameters = 0;      ///< used for one token, without the MTP layer
  std::int64_t expected = 0;               ///< tensors the config asks for
  std::int64_t present = 0;                ///< tensors in the files
  std::vector<std::string> missing_files;  ///< shards that are named but absent
  std::vector<std::string> missing;        ///< names of absent tensors
  std::int64_t left_out = 0;               ///< absent tensors that need not be there: optional ones, scales
  std::vector<std::string> wrong;          ///< one line for each tensor with another dtype or shape
  std::int64_t weight_bytes = 0;           ///< of the tensors in the files
  std::int64_t absorbed_bytes_fp8 = 0;     ///< copies of kv_b for the absorbed form of MLA
  std::int64_t absorbed_bytes_fp32 = 0;
  std::array<CacheBytes, 3> cache{};
};

/// Bytes one token takes in the caches of all layers.
std::array<CacheBytes, 3> cache_bytes_per_token(const ModelConfig& config);
ModelPlan plan_model(const Checkpoint& checkpoint);

}  // namespace fathom
