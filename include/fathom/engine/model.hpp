// A checkpoint, ready to run: mapped weights, and what was derived from them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "fathom/core/context.hpp"
#include "fathom/engine/cache.hpp"

namespace fathom {

struct ModelConfig;  // fathom/engine/config.hpp

/// The arithmetic of the whole model.
///   fp8   weights as stored, activations in 1x128 fp8 groups (bf16 where the weight is bf16), fp8 index
///   keys;
///         residual stream and norms f32
///   fp32  weights dequantised tile by tile, everything else f32, index keys not rotated
enum class Precision : std::uint8_t { fp8, fp32 };
std::string_view to_string(Precision precision);
bool parse_enum(std::string_view text, Precision& precision);

struct ModelOptions {
  Precision precision = Precision::fp8;
  std::optional<KvFormat> kv_cache;         ///< left out: fp8 for fp8, f32 for fp32
  std::function<void(double)> on_progress;  ///< called while loading, with 0 .. 1
};

class Model {
 public:
  /// Maps the checkpoint of a directory (config.json, safetensors) and derives the absorbed attention
  /// weights. Throws FileError, naming the file, if anything is missing, malformed or not supported, and
  /// InvalidArgument if the context's device is not the CPU.
  static Model load(const std::filesystem::path& directory, const ModelOptions& options,
                    const Context& context);
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  const ModelConfig& config() const;
  Precision precision() const;
  KvFormat kv_format() const;
  /// The checkpoint has an MTP layer, which drafts tokens.
  bool has_mtp() const;
  /// What a KvCache for this model looks like.
  CacheShape cache_shape() const;
  std::int64_t mapped_bytes() const;   ///< of the checkpoint; clean pages that the system may drop
  std::int64_t derived_bytes() const;  ///< weights whose layout had to change

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
