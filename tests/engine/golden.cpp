#include "engine/golden.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>

#include "engine/loader/safetensors.hpp"
#include "fathom/engine/config.hpp"

namespace fathom {

std::filesystem::path tiny_model_dir() {
  return std::filesystem::path(FATHOM_SOURCE_DIR) / "models/tiny-dsv32";
}

nlohmann::json golden_json(const std::string& file) {
  std::ifstream stream(tiny_model_dir() / "goldens" / file);
  return nlohmann::json::parse(stream);
}

Ids GoldenPrompt::path() const {
  Ids all = ids;
  all.insert(all.end(), continuation.begin(), continuation.end());
  return all;
}

std::vector<GoldenPrompt> golden_prompts() {
  std::vector<GoldenPrompt> prompts;
  for (const auto& entry : golden_json("prompts.json")) {
    prompts.push_back({.name = entry["name"],
                       .ids = entry["input_ids"],
                       .continuation = entry["continuation_ids"],
                       .margins = entry["top1_minus_top2"]});
  }
  return prompts;
}

std::vector<float> golden_tensor(const std::string& name) {
  static const std::vector<char> bytes = [] {
    const auto path = tiny_model_dir() / "goldens/logits.safetensors";
    std::vector<char> content(std::filesystem::file_size(path));
    std::ifstream(path, std::ios::binary).read(content.data(), static_cast<std::streamsize>(content.size()));
    return content;
  }();
  for (const auto& entry : safetensors::parse_header(std::as_bytes(std::span(bytes)), "logits.safetensors")) {
    if (entry.name != name) continue;
    std::vector<float> values(static_cast<std::size_t>(entry.end - entry.begin) / sizeof(float));
    std::memcpy(values.data(), bytes.data() + entry.begin, values.size() * sizeof(float));
    return values;
  }
  throw InvalidArgument("no golden tensor is named " + name);
}

Ids golden_perplexity_ids() {
  Ids ids;
  for (const auto& sequence : golden_json("perplexity_ids.json"))
    for (const auto& id : sequence) ids.push_back(id);
  return ids;
}

const Model& tiny_model(Precision precision) {
  static std::map<Precision, std::unique_ptr<Model>> models;
  auto& model = models[precision];
  if (!model)
    model = std::make_unique<Model>(Model::load(tiny_model_dir(), {.precision = precision}, test_context()));
  return *model;
}

Trace::Trace(const Model& model, std::int64_t tokens, const Context& context)
    : model_(model),
      context_(context),
      runner_(model, context),
      cache_(model.cache_shape(), (tokens + kPageTokens - 1) / kPageTokens),
      sequence_(cache_.add_sequence()) {
  cache_.reserve(sequence_, tokens);
}

TensorView Trace::hidden() const {
  return TensorView::contiguous(const_cast<float*>(hidden_.data()), DType::f32,
                                {static_cast<std::int64_t>(ids_.size()), model_.config().hidden_size});
}

void Trace::extend(std::span<const std::int32_t> ids, std::int64_t chunk) {
  const auto before = static_cast<std::int64_t>(ids_.size());
  const auto total = static_cast<std::int64_t>(ids.size());
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  hidden_.resize(ids_.size() * static_cast<std::size_t>(model_.config().hidden_size));
  for (std::int64_t begin = 0; begin < total; begin += chunk) {
    const std::int64_t count = std::min(chunk, total - begin);
    const BatchRequest request{.sequence = sequence_, .prefix = before + begin, .extend = count};
    batch_.build(ForwardMode::extend, {&request, 1}, cache_, model_.config().index_topk, context_);
    runner_.forward(batch_, ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
                    cache_, hidden().rows(before + begin, before + begin + count));
  }
}

std::vector<float> Trace::logits(std::int64_t begin, std::int64_t end) {
  const std::int64_t vocab = model_.config().vocab_size;
  std::vector<float> out(static_cast<std::size_t>((end - begin) * vocab));
  runner_.logits(hidden().rows(begin, end),
                 TensorView::contiguous(out.data(), DType::f32, {end - begin, vocab}));
  return out;
}

std::vector<float> Trace::mtp_logits(std::int64_t begin, std::int64_t chunk) {
  const std::int64_t rows = static_cast<std::int64_t>(ids_.size()) - 1;
  const std::int64_t vocab = model_.config().vocab_size;
  std::vector<float> out(static_cast<std::size_t>((rows - begin) * vocab));
  const TensorView logits = TensorView::contiguous(out.data(), DType::f32, {rows - begin, vocab});
  std::vector<float> states(static_cast<std::size_t>(chunk * model_.config().hidden_size));
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t count = std::min(chunk, rows - first);
    const BatchRequest request{.sequence = sequence_, .prefix = first, .extend = count};
    batch_.build(ForwardMode::extend, {&request, 1}, cache_, model_.config().index_topk, context_);
    const TensorView mtp =
        TensorView::contiguous(states.data(), DType::f32, {count, model_.config().hidden_size});
    runner_.forward_mtp(
        batch_, std::span(ids_).subspan(static_cast<std::size_t>(first) + 1, static_cast<std::size_t>(count)),
        hidden().rows(first, first + count), cache_, mtp);
    const std::int64_t wanted = std::max(first, begin);
    if (wanted < first + count)
      runner_.logits_mtp(mtp.rows(wanted - first, count), logits.rows(wanted - begin, first + count - begin));
  }
  return out;
}

std::int32_t argmax_of(std::span<const float> row) {
  return static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

double margin_of(std::span<const float> row) {
  const auto best = static_cast<std::size_t>(argmax_of(row));
  float second = -INFINITY;
  for (std::size_t i = 0; i < row.size(); ++i)
    if (i != best) second = std::max(second, row[i]);
  return static_cast<double>(row[best]) - static_cast<double>(second);
}

}  // namespace fathom
