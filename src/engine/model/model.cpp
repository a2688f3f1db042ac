#include "fathom/engine/model.hpp"

#include "engine/model/model_impl.hpp"
#include "fathom/core/error.hpp"

namespace fathom {
namespace {

RopeConfig rope_config(const ModelConfig& config) {
  RopeConfig rope{.dim = config.qk_rope_head_dim, .theta = config.rope_theta};
  if (const auto& scaling = config.rope_scaling) {
    rope.yarn = true;
    rope.factor = scaling->factor;
    rope.original_max_position_embeddings = scaling->original_max_position_embeddings;
    rope.beta_fast = scaling->beta_fast;
    rope.beta_slow = scaling->beta_slow;
    rope.mscale = scaling->mscale.value_or(0);
    rope.mscale_all_dim = scaling->mscale_all_dim.value_or(0);
    rope.attention_factor = scaling->attention_factor;
  }
  return rope;
}

LayerConstants layer_constants(const ModelConfig& config, const RopeConfig& rope, Precision precision) {
  const bool fp8 = precision == Precision::fp8;
  return {.config = config,
          .precision = precision,
          .index_fp8 = fp8,
          .index_ue8m0 = fp8 && config.quantization_config && config.quantization_config->ue8m0,
          .softmax_scale = static_cast<float>(attention_softmax_scale(rope, config.qk_head_dim())),
          .epsilon = static_cast<float>(config.rms_norm_eps)};
}

}  // namespace

std::string_view to_string(Precision precision) { return precision == Precision::fp8 ? "fp8" : "fp32"; }

bool parse_enum(std::string_view text, Precision& precision) {
  for (const Precision candidate : {Precision::fp8, Precision::fp32}) {
    if (text != to_string(candidate)) continue;
    precision = candidate;
    return true;
  }
  return false;
}

Model::Impl::Impl(Checkpoint file, const ModelOptions& options, const Context& context)
    : checkpoint(std::move(file)),
      kv_format(
          options.kv_cache.value_or(options.precision == Precision::fp8 ? KvFormat::fp8 : KvFormat::f32)),
      rope(rope_config(checkpoint.config())),
      constants(layer_constants(checkpoint.config(), rope, options.precision)) {
  weights = load_weights(checkpoint, options.precision, options.on_progress, context);
}

Model Model::load(const std::filesystem::path& directory, const ModelOptions& options,
                  const Context& context) {
  if (context.device().kind != DeviceKind::host)
    throw InvalidArgument("model: runs on the CPU so far; the context's device must be cpu, got " +
                          to_string(context.device()));
  return Model(std::make_unique<Impl>(Checkpoint::open(directory), options, context));
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

const ModelConfig& Model::config() const { return impl_->checkpoint.config(); }
Precision Model::precision() const { return impl_->constants.precision; }
KvFormat Model::kv_format() const { return impl_->kv_format; }
bool Model::has_mtp() const { return config().has_mtp(); }

CacheShape Model::cache_shape() const {
  return {.layers = config().layer_count(),
          .lora = config().kv_lora_rank,
          .rope_dim = config().qk_rope_head_dim,
          .index_dim = config().index_head_dim,
          .kv = kv_format(),
          .index_fp8 = impl_->constants.index_fp8};
}

std::int64_t Model::mapped_bytes() const { return impl_->checkpoint.total_bytes(); }

std::int64_t Model::derived_bytes() const {
  std::int64_t sum = 0;
  for (const Buffer& buffer : impl_->weights.derived) sum += buffer.size();
  return sum;
}

}  // namespace fathom
