// Makes checkpoints for tests: complete random models of any config, and sparse files of the official size.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "fathom/engine/config.hpp"
#include "fathom/engine/plan.hpp"

namespace fathom {

/// 2 MB in fp8: 3 layers (1 dense) + 1 MTP layer, every other size small but with ragged blocks.
ModelConfig small_config();
/// 2.2 GB in fp8.
ModelConfig two_gigabyte_config();
/// DeepSeek-V3.2: 61 + 1 layers, 256 experts, ue8m0 scales.
ModelConfig official_config();

/// The config as a config.json.
std::string config_text(const ModelConfig& config);

struct WriteOptions {
  std::int64_t seed = 1;
  int shards = 1;  ///< 1: model.safetensors; more: as the official files are named, with an index
  DType plain =
      DType::bf16;      ///< of what is no matrix of a linear layer: norms, embedding, head, router, gate
  bool sparse = false;  ///< headers and holes only: every weight is zero, and takes no disk
  std::function<bool(const ExpectedTensor&)> filled;  ///< with sparse: these tensors get their weights
  /// Leaves a tensor out of its shard (the index keeps it).
  std::function<bool(const ExpectedTensor&)> omit;
};

/// Creates `dir` and writes config.json, generation_config.json and all tensors of the config. Matrices are
/// f8e4m3 with scales if the config says fp8, else bf16; their weights have deviation 1/sqrt(k), so that
/// activations neither vanish nor explode. One seed, one content.
void write_checkpoint(const std::filesystem::path& dir, const ModelConfig& config,
                      const WriteOptions& options = {});

/// A directory that removes itself.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace fathom
