// fathom generate: streams the continuation of a prompt, then reports what it took.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "core/file.hpp"
#include "fathom/core/error.hpp"
#include "fathom/engine/tokenizer.hpp"
#include "interrupt.hpp"
#include "message.hpp"
#include "model_arguments.hpp"
#include "progress.hpp"
#include "rate.hpp"

namespace fathom::cli {
namespace {

constexpr std::int64_t kMaxPromptBytes = 256 << 20;

struct GenerateArguments {
  ModelArguments model;
  std::string prompt;
  std::string prompt_file;
  std::string ids_file;
  GenerateOptions options;
  bool json = false;
};

// What the prompt options say, checked before a model is loaded.
struct Prompt {
  std::optional<Tokenizer> tokenizer;  // none if only ids are given and the model's folder has no tokenizer
  std::vector<std::int32_t> ids;
};

Prompt read_prompt(const GenerateArguments& arguments) {
  Prompt prompt;
  const std::filesystem::path directory = arguments.model.directory;
  if (!arguments.ids_file.empty()) {
    prompt.ids = read_ids(arguments.ids_file);
    if (std::filesystem::exists(directory / "tokenizer.json")) prompt.tokenizer = Tokenizer::load(directory);
    return prompt;
  }
  const bool from_file = !arguments.prompt_file.empty();
  const std::string text = from_file ? read_file(arguments.prompt_file, kMaxPromptBytes) : arguments.prompt;
  const std::string name = from_file ? arguments.prompt_file : "--prompt";
  if (text.empty() && from_file) throw FileError(name + ": the prompt must not be empty");
  if (text.empty()) throw InvalidArgument(name + ": must not be empty");
  prompt.tokenizer = Tokenizer::load(directory);
  try {
    prompt.ids = prompt.tokenizer->encode(text, /*add_special_tokens=*/true);
  } catch (const InvalidArgument& error) {
    throw FileError(fmt::format("{}: {}", name, error.what()));
  }
  return prompt;
}

// Writes tokens as they come: as text, or as numbers if there is no tokenizer.
class Writer {
 public:
  explicit Writer(const Tokenizer* tokenizer) {
    if (tokenizer != nullptr) stream_.emplace(*tokenizer);
  }
  void push(std::int32_t token) {
    if (stream_) return put(stream_->push(token));
    put(fmt::format("{}{}", first_ ? "" : " ", token));
    first_ = false;
  }
  void finish() {
    if (stream_) put(stream_->finish());
    if (!stream_ || isatty(STDOUT_FILENO) == 1) put("\n");  // the shell's prompt belongs on a line of its own
  }

 private:
  void put(const std::string& text) {
    if (text.empty()) return;
    // Nobody waits for text that cannot be written: this ends the run.
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
      throw EnvironmentError(fmt::format("standard output cannot be written: {}", std::strerror(errno)));
  }
  std::optional<TokenStream> stream_;
  bool first_ = true;
};

// The first token comes out of the prefill.
double decode_rate(const GenerateStats& stats) {
  return stats.output_tokens > 1 ? rate(stats.output_tokens - 1, stats.decode_seconds) : 0;
}

// Weights that decoding read for every token after the first.
std::int64_t weight_bytes_per_token(const GenerateStats& stats) {
  return stats.output_tokens > 1 ? stats.weight_bytes / (stats.output_tokens - 1) : 0;
}

void print_json(const Prompt& prompt, const Generation& result, double load_seconds) {
  const GenerateStats& stats = result.stats;
  nlohmann::ordered_json json;
  json["prompt_ids"] = prompt.ids;
  json["output_ids"] = result.output_ids;
  json["text"] = nullptr;
  if (prompt.tokenizer) json["text"] = prompt.tokenizer->decode(result.output_ids, /*skip_special=*/true);
  json["finish_reason"] = to_string(result.finish_reason);
  json["timings"] = {{"load_seconds", load_seconds},
                     {"prefill_seconds", stats.prefill_seconds},
                     {"decode_seconds", stats.decode_seconds},
                     {"prompt_tokens_per_second", rate(stats.prompt_tokens, stats.prefill_seconds)},
                     {"generated_tokens_per_second", decode_rate(stats)},
                     {"weight_bytes_per_token", weight_bytes_per_token(stats)}};
  json["draft"] = {{"proposed", stats.drafts_proposed}, {"accepted", stats.drafts_accepted}};
  fmt::print("{}\n", json.dump());
}

void print_report(const LoadedModel& loaded, const Generation& result) {
  const GenerateStats& stats = result.stats;
  const auto mega = [](std::int64_t bytes) { return static_cast<double>(bytes) * 1e-6; };
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const MemoryUse memory = loaded.session.memory();
  message("\n");
  message("prompt     {} tokens, {}\n", stats.prompt_tokens,
          rate_text(rate(stats.prompt_tokens, stats.prefill_seconds)));
  message("generated  {} tokens, {}, ended by {}\n", stats.output_tokens, rate_text(decode_rate(stats)),
          to_string(result.finish_reason));
  if (stats.drafts_proposed > 0) {
    message("drafts     {} of {} accepted ({:.0f} %), {} steps\n", stats.drafts_accepted,
            stats.drafts_proposed,
            100.0 * static_cast<double>(stats.drafts_accepted) / static_cast<double>(stats.drafts_proposed),
            stats.steps);
  } else {
    message("drafts     none\n");
  }
  message("memory     {:.0f} MB at most: {:.1f} weights mapped, {:.1f} derived, {:.1f} caches, {:.1f} work\n",
          static_cast<double>(usage.ru_maxrss) * 1.024e-3, mega(memory.weights_mapped),
          mega(memory.weights_derived), mega(memory.caches), mega(memory.workspace));
  message("device     cpu, {}, {} threads\n", cpu_target(), loaded.context.threads());
  message("precision  {}, KV cache {}\n", to_string(loaded.model.precision()),
          to_string(loaded.model.kv_format()));
  for (const FallbackCount& fallback : loaded.context.fallbacks()) {
    message("fallback   {} ran on {} {} times\n", fallback.op, fallback.implementation, fallback.count);
  }
}

int generate(const GenerateArguments& arguments) {
  const Prompt prompt = read_prompt(arguments);
  LoadedModel loaded(arguments.model);
  if (!arguments.ids_file.empty()) check_ids(arguments.ids_file, prompt.ids, loaded.model);
  // Not before: until there is something to report, Ctrl-C ends the process at once.
  const std::atomic<bool>& interrupted = watch_for_interrupt();

  Writer writer(prompt.tokenizer ? &*prompt.tokenizer : nullptr);
  Progress progress("prefill");
  GenerateOptions options = arguments.options;
  options.cancel = &interrupted;
  options.on_prefill = [&](std::int64_t done, std::int64_t total) { progress.show(done, total); };
  options.on_token = [&](std::int32_t token) {
    progress.erase();
    if (!arguments.json) writer.push(token);
  };
  const Generation result = loaded.session.generate(prompt.ids, options);
  progress.erase();
  if (arguments.json) {
    print_json(prompt, result, loaded.load_seconds);
  } else {
    writer.finish();
  }
  print_report(loaded, result);
  return 0;
}

}  // namespace

void add_generate(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand("generate", "Continue a prompt");
  const auto arguments = std::make_shared<GenerateArguments>();
  GenerateOptions& options = arguments->options;
  arguments->model.add_to(*command);

  CLI::Option_group* prompt = command->add_option_group("prompt", "One of them is needed");
  prompt->add_option("--prompt", arguments->prompt, "The prompt; the model's begin token is put in front")
      ->type_name("TEXT");
  prompt->add_option("--prompt-file", arguments->prompt_file, "The same from a UTF-8 file, taken as it is")
      ->check(not_empty())
      ->type_name("FILE");
  prompt
      ->add_option("--ids", arguments->ids_file,
                   "A JSON list of token ids, taken as they are; needs no tokenizer")
      ->check(not_empty())
      ->type_name("FILE");
  prompt->require_option(1);

  command->add_option("--max-tokens", options.max_tokens, "Stop after so many tokens")
      ->check(whole_number(1, std::int64_t{1} << 31))
      ->capture_default_str()
      ->type_name("N");
  command->add_flag("--ignore-eos", options.ignore_eos, "Go on after the end token");
  CLI::Option* temperature = command
                                 ->add_option("--temperature", options.sampling.temperature,
                                              "0 takes the most likely token, more varies more")
                                 ->check(number(0, 100))
                                 ->capture_default_str()
                                 ->type_name("T");
  const auto top_p = command->add_option("--top-p", options.sampling.top_p,
                                         "Sample from the likeliest tokens up to this sum");
  top_p->check(number(0, 1, /*above_least=*/true))->capture_default_str()->type_name("P");
  const auto top_k =
      command->add_option("--top-k", options.sampling.top_k, "Sample from so many tokens; 0: from all");
  top_k->check(whole_number(0, std::int64_t{1} << 31))->capture_default_str()->type_name("K");
  command->add_option("--seed", options.sampling.seed, "Of the random numbers that sampling uses")
      ->check(whole_number(0, std::numeric_limits<std::int64_t>::max()))
      ->capture_default_str()
      ->type_name("S");
  command
      ->add_option(
          "--draft-tokens", options.draft_tokens,
          "Tokens guessed ahead per step by the MTP layer, at most; changes speed, never the result's "
          "distribution (default: 3 if the model has that layer, else 0)")
      ->check(whole_number(0, kMaxDraftTokens))
      ->type_name("0..7");
  command->add_flag_callback(
      "--fixed-drafts", [arguments] { arguments->options.adaptive_drafts = false; },
      "Guess that many in every step, also where guesses are unlikely to be right");
  command->add_flag(
      "--json", arguments->json,
      "Print one object at the end instead: prompt_ids, output_ids, text, finish_reason, timings, draft");
  command->footer(
      "The text is streamed to standard output, the report goes to standard error. Ctrl-C ends the text\n"
      "early and still reports; while the model loads it ends the process.");
  command->callback([&action, arguments, temperature, top_p, top_k] {
    const bool greedy = arguments->options.sampling.temperature <= 0;
    for (const CLI::Option* option : {top_p, top_k}) {
      if (greedy && option->count() > 0) {
        throw CLI::ValidationError(option->get_name(), "needs " + temperature->get_name() + " above 0");
      }
    }
    action = [arguments] { return generate(*arguments); };
  });
}

}  // namespace fathom::cli
