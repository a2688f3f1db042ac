#include "model_arguments.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <limits>

#include "checks.hpp"
#include "core/json.hpp"
#include "fathom/core/error.hpp"
#include "fathom/engine/config.hpp"
#include "progress.hpp"

namespace fathom::cli {
namespace {

constexpr std::int64_t kLargestChunk = 1 << 20;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::int32_t> ids_of(const Json& list, const std::string& where, std::size_t least) {
  if (!list.is_array())
    throw FileError(fmt::format("{} must be a list of token ids, got {}", where, describe_json(&list)));
  if (list.size() < least) {
    throw FileError(fmt::format("{} must have at least {}, got {}", where,
                                least == 1 ? "one token id" : fmt::format("{} token ids", least),
                                list.empty() ? "an empty list" : describe_json(&list)));
  }
  std::vector<std::int32_t> ids;
  ids.reserve(list.size());
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<std::int32_t>::max()) {
      throw FileError(fmt::format("{}[{}] must be a token id, a whole number from 0, got {}", where,
                                  ids.size(), describe_json(&id)));
    }
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

Model load_with_progress(const ModelArguments& arguments, const Context& context, double& seconds) {
  const auto start = std::chrono::steady_clock::now();
  Progress progress("load");
  ModelOptions options = arguments.options();
  options.on_progress = [&](double fraction) { progress.show(fraction); };
  Model model = Model::load(arguments.directory, options, context);
  seconds = seconds_since(start);
  return model;
}

}  // namespace

void ThreadArgument::add_to(CLI::App& command) {
  command.add_option("--threads", threads, "Threads to use; 0: one per core (default: FATHOM_THREADS)")
      ->check(whole_number(0, 4096))
      ->type_name("N");
  command.add_flag(
      "--invariant", invariant,
      "Decode adds in the order of prefill: a token's values are the same in both, at some cost on a GPU");
}

ContextOptions ThreadArgument::options() const {
  ContextOptions options = ContextOptions::from_environment();
  if (threads >= 0) options.threads = threads;
  if (invariant) options.invariant = true;
  return options;
}

CLI::Option* add_kernel_pack(CLI::App& command, std::string& file) {
  return command
      .add_option("--kernel-pack", file,
                  "Take kernels from this file of `fathom kernels build` (default: FATHOM_KERNEL_PACK, else "
                  "fathom.pack beside the library)")
      ->check(not_empty())
      ->type_name("PACK");
}

void ModelArguments::add_to(CLI::App& command) {
  command
      .add_option("--model", directory, "Folder with config.json, tokenizer.json and the safetensors files")
      ->check(not_empty())
      ->type_name("DIR")
      ->required();
  command
      .add_option(
          "--precision", precision,
          "fp8: weights as stored, activations in FP8; fp32: everything but the weights f32, much slower")
      ->check(one_of({"fp8", "fp32"}))
      ->capture_default_str()
      ->type_name("fp8|fp32");
  command
      .add_option("--kv-cache", kv_cache, "Format of keys and values (default: fp8 with fp8, f32 with fp32)")
      ->check(one_of({"fp8", "bf16", "f32"}))
      ->type_name("fp8|bf16|f32");
  command
      .add_option("--prefill-chunk", session.prefill_chunk,
                  "Prompt tokens per step, 0: all; changes speed and memory, never the result")
      ->check(whole_number(0, kLargestChunk))
      ->capture_default_str()
      ->type_name("N");
  threads.add_to(command);
}

ModelOptions ModelArguments::options() const {
  ModelOptions options;
  parse_enum(precision, options.precision);
  if (!kv_cache.empty()) parse_enum(kv_cache, options.kv_cache.emplace());
  return options;
}

LoadedModel::LoadedModel(const ModelArguments& arguments)
    : context(arguments.threads.options()),
      model(load_with_progress(arguments, context, load_seconds)),
      session(model, context, arguments.session) {}

std::vector<std::int32_t> read_ids(const std::string& file) {
  return ids_of(read_json(file), file + ": ids", 1);
}

std::vector<std::vector<std::int32_t>> read_id_lists(const std::string& file, std::size_t least) {
  const Json json = read_json(file);
  if (!json.is_array() || json.empty() || !json.front().is_array())
    return {ids_of(json, file + ": ids", least)};
  std::vector<std::vector<std::int32_t>> lists;
  for (const Json& list : json)
    lists.push_back(ids_of(list, fmt::format("{}: ids[{}]", file, lists.size()), least));
  return lists;
}

void check_ids(const std::string& file, const std::vector<std::int32_t>& ids, const Model& model) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < model.config().vocab_size) continue;
    throw FileError(fmt::format("{}: ids[{}] must be below the vocabulary size {}, got {}", file, i,
                                model.config().vocab_size, ids[i]));
  }
}

}  // namespace fathom::cli
