// fathom generate: what is on which stream, and how it ends.
#include <csignal>
#include <nlohmann/json.hpp>

#include "cli/program.hpp"
#include "cli/rate.hpp"

namespace fathom::cli_test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::vector<std::string> words(std::vector<std::string> first, const std::vector<std::string>& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

// A random model says anything, half characters included.
std::vector<std::string> generate(const std::vector<std::string>& more) {
  return words({"generate", "--model", random_model().string(), "--max-tokens", "24", "--ignore-eos"}, more);
}

TEST(Generate, StreamsTheTextOfTheJson) {
  for (const std::vector<std::string>& sampling :
       {std::vector<std::string>{},
        {"--temperature", "1.5", "--seed", "3"},
        {"--temperature", "1", "--top-k", "50", "--top-p", "0.9"}}) {
    const Outcome text = fathom(generate(words({"--prompt", "Once upon a time"}, sampling)));
    const Outcome json = fathom(generate(words({"--prompt", "Once upon a time", "--json"}, sampling)));
    expect_done(text);
    expect_done(json);
    EXPECT_GT(text.out.size(), 0u);
    EXPECT_EQ(text.out, Json::parse(json.out).at("text").get<std::string>());
    for (const char* row :
         {"prompt  ", "generated  ", "drafts  ", "memory  ", "device  ", "precision  fp8, KV cache fp8"}) {
      EXPECT_NE(text.err.find(row), std::string::npos) << row << text.err;
    }
    EXPECT_EQ(text.err.find('\r'), std::string::npos) << "a progress bar without a terminal";
  }
}

TEST(Generate, JsonHasTheseKeys) {
  const Outcome run = fathom(generate({"--prompt", "Once upon a time", "--json"}));
  expect_done(run);
  EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 1);
  const Json json = Json::parse(run.out);
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"draft", "finish_reason", "output_ids", "prompt_ids", "text",
                                            "timings"}));
  EXPECT_EQ(json.at("prompt_ids").at(0), 0) << "tokenizer.json asks for a begin token";
  EXPECT_EQ(json.at("output_ids").size(), 24u);
  EXPECT_EQ(json.at("finish_reason"), "length");
  EXPECT_GT(json.at("draft").at("proposed"), 0) << "3 drafts are the default of a model with an MTP layer";
  EXPECT_GE(json.at("draft").at("proposed"), json.at("draft").at("accepted"));
  for (const char* key : {"load_seconds", "prefill_seconds", "decode_seconds"})
    EXPECT_GT(json.at("timings").at(key), 0);
}

// Threads, chunks, drafts and the way the prompt comes in do not change a token.
TEST(Generate, OptionsOfSpeedDoNotChangeTheAnswer) {
  const TemporaryDirectory folder;
  const Json plain = Json::parse(fathom(generate({"--prompt", "It was a dark night", "--json"})).out);
  write_text(folder / "prompt.txt", "It was a dark night");
  write_text(folder / "ids.json", plain.at("prompt_ids").dump());
  const std::vector<std::string> prompt{"--prompt", "It was a dark night", "--json"};
  for (const std::vector<std::string>& arguments :
       {words(prompt, {"--draft-tokens", "0"}), words(prompt, {"--draft-tokens", "7"}),
        words(prompt, {"--draft-tokens", "7", "--fixed-drafts"}), words(prompt, {"--threads", "1"}),
        words(prompt, {"--prefill-chunk", "1"}), words(prompt, {"--prefill-chunk", "0"}),
        std::vector<std::string>{"--prompt-file", (folder / "prompt.txt").string(), "--json"},
        std::vector<std::string>{"--ids", (folder / "ids.json").string(), "--json"}}) {
    const Outcome run = fathom(generate(arguments));
    expect_done(run);
    const Json json = Json::parse(run.out);
    EXPECT_EQ(json.at("output_ids"), plain.at("output_ids"));
    EXPECT_EQ(json.at("prompt_ids"), plain.at("prompt_ids"));
    EXPECT_EQ(json.at("text"), plain.at("text"));
  }
}

TEST(Generate, FixedDraftsAreNeverFewer) {
  const auto proposed = [](const std::vector<std::string>& more) {
    const Outcome run = fathom(generate(words({"--prompt", "Once upon a time", "--json"}, more)));
    return Json::parse(run.out).at("draft").at("proposed").get<int>();
  };
  const int fixed = proposed({"--draft-tokens", "7", "--fixed-drafts"});
  EXPECT_GT(fixed, proposed({"--draft-tokens", "7"}));
  EXPECT_GE(fixed, 7);
}

TEST(Generate, IdsNeedNoTokenizer) {
  const TemporaryDirectory folder;
  copy_random_model(folder / "model");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) fs::remove(folder / "model" / name);
  write_text(folder / "ids.json", "[5, 6, 7]");
  const std::vector<std::string> arguments{"generate",
                                           "--model",
                                           (folder / "model").string(),
                                           "--ids",
                                           (folder / "ids.json").string(),
                                           "--max-tokens",
                                           "4",
                                           "--ignore-eos"};
  const Outcome json_run = fathom(words(arguments, {"--json"}));
  expect_done(json_run);
  const Json json = Json::parse(json_run.out);
  EXPECT_EQ(json.at("prompt_ids"), Json::parse("[5, 6, 7]")) << "nothing is added";
  EXPECT_TRUE(json.at("text").is_null());
  const Outcome run = fathom(arguments);
  expect_done(run);
  std::string ids;
  for (const Json& id : json.at("output_ids")) ids += (ids.empty() ? "" : " ") + id.dump();
  EXPECT_EQ(run.out, ids + "\n");
  expect_refused(fathom({"generate", "--model", (folder / "model").string(), "--prompt", "x"}),
                 "tokenizer.json");
}

TEST(Generate, SlowRatesAreShownToo) {
  for (const auto& [value, text] :
       {std::pair(2513.4, "2513"), {10.0, "10"}, {9.96, "10"}, {9.94, "9.9"}, {0.42, "0.42"}, {0.0, "0"}})
    EXPECT_EQ(cli::rate_text(value), std::string(text) + " tokens/s");
  EXPECT_EQ(cli::rate(3, 0), 0);
}

TEST(Generate, EndsWhereItsTextCannotBeWritten) {
  const Outcome run = fathom({"generate", "--model", bundled_model(), "--prompt", "Once upon a time",
                              "--max-tokens", "3500", "--ignore-eos"},
                             {.stdout_file = "/dev/full"});
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(run.err, "fathom: standard output cannot be written: No space left on device\n") << "no report";
}

TEST(Generate, NeedsNobodyToReadItsReport) {
  const Outcome expected = fathom(generate({"--prompt", "Once upon a time"}));
  const Outcome run = fathom(generate({"--prompt", "Once upon a time"}), {.stderr_file = "/dev/full"});
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(run.out, expected.out);
  EXPECT_EQ(fathom(generate({"--prompt", ""}), {.stderr_file = "/dev/full"}).code, 2);
  EXPECT_EQ(fathom(generate({"--prompt", "Once upon a time"}), {.closed = true}).code, 1);
}

TEST(Generate, CtrlCEndsCleanly) {
  // Not the random model: the tokens must outlast the signal.
  const std::vector<std::string> arguments{
      "generate",     "--model", bundled_model(), "--prompt",  "Once upon a time",
      "--max-tokens", "3500",    "--ignore-eos",  "--threads", "1"};
  const Outcome text = fathom(arguments, {.interrupt_after = 20});
  expect_done(text);
  EXPECT_NE(text.err.find("ended by cancelled"), std::string::npos) << text.err;
  EXPECT_NE(text.err.find("\nmemory "), std::string::npos) << text.err;

  std::vector<std::string> as_json = arguments;
  as_json.push_back("--json");
  const Outcome json = fathom(as_json, {.interrupt_after_ms = 300});
  expect_done(json);
  EXPECT_EQ(Json::parse(json.out).at("finish_reason"), "cancelled");
}

// Sparse files of 300 layers, whose kv_b takes seconds to transpose.
TEST(Generate, CtrlCWhileLoadingTakesEffectAtOnce) {
  const TemporaryDirectory folder;
  ModelConfig config = small_config();
  config.num_hidden_layers = 300;
  config.n_routed_experts = config.n_shared_experts = 0;
  config.num_attention_heads = 128;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = config.v_head_dim = 128;
  write_checkpoint(folder / "model", config, {.sparse = true});
  write_text(folder / "ids.json", "[1]");
  const Outcome run = fathom(
      {"generate", "--model", (folder / "model").string(), "--ids", (folder / "ids.json").string(), "--json"},
      {.interrupt_after_ms = 100});
  EXPECT_EQ(run.code, -SIGINT) << run.err;
  EXPECT_EQ(run.out, "");
}

TEST(Generate, ShowsProgressOnATerminal) {
  const Outcome run =
      fathom(generate({"--prompt", "Once upon a time", "--prefill-chunk", "1"}), {.terminal = true});
  expect_done(run);
  EXPECT_NE(run.err.find("\rload "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("\rprefill "), std::string::npos) << run.err;
  EXPECT_EQ(run.out.find('\r'), std::string::npos);
  EXPECT_EQ(run.out, fathom(generate({"--prompt", "Once upon a time"})).out);
}

TEST(Generate, BadPromptsAreRefused) {
  const TemporaryDirectory folder;
  const auto file = [&](const std::string& text) {
    write_text(folder / "file", text);
    return (folder / "file").string();
  };
  const std::string name = (folder / "file").string();
  const auto ids = [&](const std::string& text) { return fathom(generate({"--ids", file(text)})); };
  expect_refused(fathom(generate({"--prompt", ""})), "--prompt: must not be empty");
  expect_refused(fathom(generate({"--prompt-file", file("")})), name + ": the prompt must not be empty");
  expect_refused(fathom(generate({"--prompt", "caf\xe9 au lait"})), "--prompt: ");
  expect_refused(fathom(generate({"--prompt-file", file("ab\xff")})), name + ": ");
  expect_refused(fathom(generate({"--prompt-file", (folder / "none").string()})), (folder / "none").string());
  expect_refused(fathom(generate({"--prompt-file", folder.path().string()})), folder.path().string());
  expect_refused(ids(""), name);
  expect_refused(ids("[1, 2"), name);
  expect_refused(ids("{\"ids\": [1]}"), name + ": ids must be a list of token ids, got an object");
  expect_refused(ids("[]"), name + ": ids must have at least one token id, got an empty list");
  expect_refused(ids("[1, -2]"), name + ": ids[1] must be a token id, a whole number from 0, got -2");
  expect_refused(ids("[1, 2.5]"), name + ": ids[1] must be a token id");
  expect_refused(ids("[1, [2]]"), name + ": ids[1] must be a token id");
  expect_refused(ids("[1, 4294967296]"), name + ": ids[1] must be a token id");
  expect_refused(ids("[1, 4096]"), name + ": ids[1] must be below the vocabulary size 4096, got 4096");
  std::string many = "[1";
  for (int i = 0; i < 1024; ++i) many += ",1";
  expect_refused(ids(many + "]"), "max_position_embeddings");
}

TEST(Generate, DraftsNeedAnMtpLayer) {
  const TemporaryDirectory folder;
  ModelConfig config = small_config();
  config.num_nextn_predict_layers = 0;
  write_checkpoint(folder / "model", config);
  write_text(folder / "ids.json", "[5, 6, 7]");
  const std::vector<std::string> arguments{
      "generate",     "--model", (folder / "model").string(), "--ids", (folder / "ids.json").string(),
      "--max-tokens", "4"};
  const Outcome run = fathom(words(arguments, {"--json"}));
  expect_done(run);
  EXPECT_EQ(Json::parse(run.out).at("draft").at("proposed"), 0);
  expect_refused(fathom(words(arguments, {"--draft-tokens", "1"})), "MTP");
}

}  // namespace
}  // namespace fathom::cli_test
