// The bundled model and its reference outputs, for tests of the engine.
#pragma once
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "engine/model/runner.hpp"
#include "fathom/engine/model.hpp"
#include "fathom/engine/session.hpp"
#include "ops/op_test.hpp"

namespace fathom {

using Ids = std::vector<std::int32_t>;

/// Under AddressSanitizer, which makes models five to ten times slower, sweeps take every path but fewer
/// cases.
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

std::filesystem::path tiny_model_dir();
nlohmann::json golden_json(const std::string& file);

/// One entry of prompts.json.
struct GoldenPrompt {
  std::string name;
  Ids ids;
  Ids continuation;
  std::vector<double> margins;  // top1 - top2 at every token of the continuation
  /// Prompt and continuation.
  Ids path() const;
};
std::vector<GoldenPrompt> golden_prompts();
/// A tensor of logits.safetensors, for example "p0300.logits_last8".
std::vector<float> golden_tensor(const std::string& name);
/// The 8 sequences of perplexity_ids.json, one after the other.
Ids golden_perplexity_ids();

/// The bundled model, loaded once per precision and test program.
const Model& tiny_model(Precision precision);

/// A model run over whole sequences without a Session: everything that a step computes stays at hand.
class Trace {
 public:
  Trace(const Model& model, std::int64_t tokens, const Context& context = test_context());
  /// Feeds ids in chunks (mode EXTEND); hidden states of all positions so far: [positions, hidden].
  void extend(std::span<const std::int32_t> ids, std::int64_t chunk = 256);
  TensorView hidden() const;
  /// Logits of positions [begin, end).
  std::vector<float> logits(std::int64_t begin, std::int64_t end);
  /// The MTP layer over all positions but the last, fed as in training: logits [positions - 1 - begin, vocab]
  /// of rows [begin, positions - 1).
  std::vector<float> mtp_logits(std::int64_t begin, std::int64_t chunk = 256);

  Runner& runner() { return runner_; }
  KvCache& cache() { return cache_; }
  SequenceId sequence() const { return sequence_; }

 private:
  const Model& model_;
  const Context& context_;
  Runner runner_;
  KvCache cache_;
  SequenceId sequence_;
  BatchMetadata batch_;
  Ids ids_;
  std::vector<float> hidden_;
};

std::int32_t argmax_of(std::span<const float> row);
/// Largest minus second largest.
double margin_of(std::span<const float> row);
/// "fp8" or "fp32", for SCOPED_TRACE and test names.
inline std::string name_of(Precision precision) { return std::string(to_string(precision)); }

}  // namespace fathom
