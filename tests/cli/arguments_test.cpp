// Arguments, help, info, ops and bench: everything that needs no model to run.
#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/program.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/op_info.hpp"

namespace fathom::cli_test {
namespace {

const std::string kProblems = FATHOM_SOURCE_DIR "/bench/problems/";

TEST(Arguments, EveryBadOneIsRefusedInOneLine) {
  const std::string model = bundled_model();
  const auto generate = [&](std::vector<std::string> more) {
    std::vector<std::string> all{"generate", "--model", model, "--prompt", "x"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{}, "a command is needed; see `fathom --help`"},
      {{"dance"}, "dance"},
      {{"generate"}, "--model is required"},
      {{"generate", "--model", model}, "[--prompt,--prompt-file,--ids] is required"},
      {generate({"--ids", "x.json"}), "[--prompt,--prompt-file,--ids] is required"},
      {generate({"--fast"}), "--fast"},
      {generate({"--max-tokens", "0"}), "--max-tokens: must be a whole number from 1"},
      {generate({"--max-tokens", "1.5"}), "got '1.5'"},
      {generate({"--max-tokens", "99999999999999999999"}), "got '99999999999999999999'"},
      {generate({"--temperature", "-1"}), "--temperature: must be a number from 0 to 100, got '-1'"},
      {generate({"--temperature", "nan"}), "--temperature: must be a number from 0 to 100, got 'nan'"},
      {generate({"--temperature", "1", "--top-p", "0"}),
       "--top-p: must be a number above 0 and at most 1, got '0'"},
      {generate({"--temperature", "1", "--top-p", "1.1"}), "--top-p"},
      {generate({"--temperature", "1", "--top-k", "-1"}), "--top-k"},
      {generate({"--top-p", "0.9"}), "--top-p: needs --temperature above 0"},
      {generate({"--top-k", "5", "--temperature", "0"}), "--top-k: needs --temperature above 0"},
      {generate({"--seed", "-1"}), "--seed"},
      {generate({"--draft-tokens", "8"}), "--draft-tokens: must be a whole number from 0 to 7, got '8'"},
      {generate({"--precision", "int4"}), "--precision: must be fp8 or fp32, got 'int4'"},
      {generate({"--kv-cache", "fp16"}), "--kv-cache: must be fp8 or bf16 or f32, got 'fp16'"},
      {generate({"--prefill-chunk", "-1"}), "--prefill-chunk"},
      {generate({"--prefill-chunk", "1048577"}), "--prefill-chunk: must be a whole number from 0 to 1048576"},
      {{"generate", "--model", "", "--prompt", "x"}, "--model: must not be empty"},
      {{"generate", "--model", model, "--prompt-file", ""}, "--prompt-file: must not be empty"},
      {{"generate", "--model", model, "--ids", ""}, "--ids: must not be empty"},
      {{"logits", "--model", model, "--ids", "x.json", "-o", ""}, "--output: must not be empty"},
      {{"info", "--model", ""}, "--model: must not be empty"},
      {generate({"--threads", "many"}), "--threads: must be a whole number from 0 to 4096, got 'many'"},
      {{"logits", "--model", model, "--ids", "x.json"}, "--output is required"},
      {{"logits", "--model", model, "-o", "x"}, "--ids is required"},
      {{"perplexity", "--model", model, "--ids", "x.json", "--window", "1"},
       "--window: must be a whole number from 2"},
      {{"info", "--all"}, "--all requires --model"},
      {{"bench"}, "problem is required"},
      {{"bench", "dance"}, "'dance' is no file, and no op is named 'dance'"},
      {{"bench", "scale:rows=many"}, "scale: 'rows' cannot be 'many'"},
      {{"bench", "scale:rows=1,rows=2"}, "scale: 'rows' is given twice"},
      {{"bench", "silu_mul:clamp=2"}, "silu_mul: 'clamp' cannot be '2'"},
      {{"bench", "scale:depth=1"}, "scale: a problem has no 'depth'; it has rows, dim, dtype"},
      {{"bench", "scale", "--filter", "["}, "--filter must be a regular expression, got '['"},
      {{"bench", "scale", "--filter", "rope"}, "no problem matches --filter 'rope'"},
      {{"bench", "scale", "--repetitions", "0"}, "--repetitions"},
      {{"bench", "scale", "--check"}, "--check needs --device cuda, the device is cpu"},
      {{"bench", "scale", "--svg", "x.svg"}, "--svg needs --device cuda, the device is cpu"},
      {{"bench", "scale", "--first-call"}, "--first-call needs --device cuda, the device is cpu"},
      {{"bench", "scale", "--kernel-pack", "x"}, "--kernel-pack needs --device cuda, the device is cpu"},
      {{"bench", "scale", "--kernel-pack", ""}, "--kernel-pack: must not be empty"},
      {{"bench", "scale", "--device", "gpu"}, "'device' must be cpu, cuda or cuda:N, got 'gpu'"},
      {{"bench", "scale", "--flush-bytes", "999"}, "must be a whole number from 1000000000"},
      {{"bench", "scale", "--device", "cuda", "--repetitions", "7"},
       "--repetitions must be at least 8 on a device"},
      {{"bench", "scale", "--device", "cuda", "--first-call", "--check"},
       "--check does not go with --first-call"},
      {{"bench", "scale", "--device", "cuda", "--first-call", "--json", "x"},
       "--json does not go with --first-call"},
      {{"bench", "scale", "--device", "cuda", "--first-call", "--svg", "x"},
       "--svg does not go with --first-call"},
      {{"bench", "scale", "--device", "cuda", "--first-call", "--markdown", "x"},
       "--markdown does not go with --first-call"},
      {{"bench", "scale", "--device", "cuda", "--hot", "--peers", "x"}, "--peers does not go with --hot"},
      {{"bench", "scale", "--device", "cuda", "--svg", "/nowhere/x.svg"}, "/nowhere/x.svg"},
      {{"bench", "scale", "--json", "/nowhere/out.json"}, "/nowhere/out.json"},
  };
  for (const auto& [arguments, text] : cases) {
    SCOPED_TRACE(text);
    expect_refused(fathom(arguments), text);
  }
}

TEST(Arguments, HelpNamesEveryOption) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases{
      {"generate",
       {"--model", "--prompt", "--prompt-file", "--ids", "--max-tokens", "--temperature", "--top-p",
        "--top-k", "--seed", "--draft-tokens", "--precision", "--kv-cache", "--prefill-chunk", "--threads",
        "--ignore-eos", "--json"}},
      {"logits",
       {"--model", "--ids", "--last", "-o", "--precision", "--kv-cache", "--prefill-chunk", "--threads"}},
      {"perplexity",
       {"--model", "--ids", "--window", "--json", "--precision", "--kv-cache", "--prefill-chunk",
        "--threads"}},
      {"info", {"--model", "--all"}},
      {"bench",
       {"--json", "--repetitions", "--threads", "--filter", "--hot", "--list", "--device", "--svg",
        "--markdown", "--flush-bytes", "--check", "--no-control", "--peers", "--commit", "--first-call",
        "--kernel-pack"}},
      {"warmup", {"--model", "--all", "--arch", "--kernel-pack"}},
      {"ops", {"--markdown"}}};
  const Outcome program = fathom({"--help"});
  expect_done(program);
  for (const auto& [command, options] : cases) {
    EXPECT_NE(program.out.find("\n  " + command), std::string::npos) << command;
    const Outcome run = fathom({command, "--help"});
    expect_done(run);
    EXPECT_EQ(run.err, "");
    for (const std::string& option : options) {
      EXPECT_NE(run.out.find(option), std::string::npos) << command << " " << option;
    }
  }
  EXPECT_EQ(fathom({"--version"}).out, std::string(version()) + "\n");
}

TEST(Arguments, EnvironmentVariablesAreChecked) {
  expect_refused(fathom({"info"}, {.environment = {{"FATHOM_THREADS", "lots"}}}),
                 "FATHOM_THREADS must be a number from 0 to 4096, got 'lots'");
  expect_refused(fathom({"info"}, {.environment = {{"FATHOM_FORCE_IMPL", "cpu:magic"}}}),
                 "nothing is named 'cpu:magic'");
  expect_refused(fathom({"info"}, {.environment = {{"FATHOM_CPU_TARGET", "mmx"}}}),
                 "FATHOM_CPU_TARGET must be one of");
}

TEST(Arguments, ASmallDiskIsAFailureOfTheMachine) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"ops"}, {"--help"}, {"bench", "--help"}, {"--version"}}) {
    const Outcome run = fathom(arguments, {.stdout_file = "/dev/full"});
    EXPECT_EQ(run.code, 1);
    EXPECT_EQ(run.err, "fathom: standard output cannot be written: No space left on device\n");
  }
}

TEST(Info, ShowsTheBuildTheMachineAndEveryName) {
  const Outcome run = fathom({"info"}, {.environment = {{"FATHOM_THREADS", "3"}}});
  expect_done(run);
  EXPECT_EQ(run.err, "");
  for (const char* row :
       {"\nbuild ", "\ncpu ", "\nfeatures ", "\ntargets ", "\ncuda ", "\nnvrtc ", "; 3 threads"}) {
    EXPECT_NE(run.out.find(row), std::string::npos) << row;
  }
  for (const EnvironmentVariable& variable : environment_variables()) {
    EXPECT_NE(run.out.find(std::string(variable.name)), std::string::npos) << variable.name;
  }
  for (const OpInfo* op : all_ops()) {
    EXPECT_NE(run.out.find("\n  " + std::string(op->name) + " "), std::string::npos) << op->name;
  }
  for (const std::string_view target : cpu_targets()) {
    EXPECT_NE(run.out.find(std::string(target)), std::string::npos) << target;
  }
}

TEST(Info, DescribesAModel) {
  const Outcome run = fathom({"info", "--model", bundled_model()});
  expect_done(run);
  for (const char* text : {"20987776", "536 of 536", "27.5 MB", "--kv-cache fp8", "bytes per token"}) {
    EXPECT_NE(run.out.find(text), std::string::npos) << text;
  }
  EXPECT_EQ(run.out.find("missing"), std::string::npos);
}

TEST(Info, ListsWhatAModelLacks) {
  const TemporaryDirectory folder;
  write_checkpoint(folder / "model", small_config(), {.shards = 2, .omit = [](const ExpectedTensor& tensor) {
                                                        return tensor.name == "model.norm.weight";
                                                      }});
  const Outcome run = fathom({"info", "--model", (folder / "model").string()});
  expect_done(run);
  EXPECT_NE(run.out.find("missing tensors, 1\n  model.norm.weight\n"), std::string::npos) << run.out;
  expect_refused(fathom({"info", "--model", (folder / "nowhere").string()}), (folder / "nowhere").string());
}

TEST(Bench, ListsOfProblemsCoverEveryOp) {
  const Outcome run = fathom({"bench", kProblems + "smoke.txt", "--list"});
  expect_done(run);
  for (const OpInfo* op : all_ops()) {
    EXPECT_NE(("\n" + run.out).find("\n" + std::string(op->name) + ":"), std::string::npos)
        << "bench/problems/smoke.txt has no " << op->name;
  }
  for (const char* file : {"decode.txt", "prefill.txt", "dense_hopper.txt", "grouped_hopper.txt",
                           "index_hopper.txt", "moe_hopper.txt"})
    expect_done(fathom({"bench", kProblems + file, "--list"}));
}

TEST(Bench, EveryOpRuns) {
  const TemporaryDirectory folder;
  const std::string json_file = (folder / "bench.json").string();
  const Outcome run =
      fathom({"bench", kProblems + "smoke.txt", "--hot", "--repetitions", "1", "--json", json_file});
  expect_done(run);
  const auto json = nlohmann::json::parse(read_text(json_file));
  const Outcome list = fathom({"bench", kProblems + "smoke.txt", "--list"});
  std::istringstream problems(list.out);
  std::size_t count = 0;
  for (std::string problem; std::getline(problems, problem); ++count) {
    EXPECT_NE(run.out.find("  " + problem + "\n"), std::string::npos) << problem;
    EXPECT_EQ(json.at("benchmarks").at(count).at("run_name").get<std::string>().rfind(problem, 0), 0u);
    EXPECT_GT(json.at("benchmarks").at(count).at("bytes").get<double>(), 0);
  }
  EXPECT_EQ(json.at("benchmarks").size(), count);
  EXPECT_GT(json.at("context").at("read_bytes_per_second").get<std::string>().size(), 0u);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"bench.json"});
}

// A limit of a file's size stands in for the disk's.
TEST(Bench, AFullDiskIsAFailureOfTheMachine) {
  const TemporaryDirectory folder;
  const std::string file = (folder / "bench.json").string(), errors = (folder / "err").string();
  const std::string command = "ulimit -f 1; trap '' XFSZ; '" FATHOM_PROGRAM
                              "' bench scale --hot --repetitions 1 --json '" +
                              file + "' 2> '" + errors + "' > /dev/null";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
  EXPECT_NE(read_text(errors).find("fathom: " + file + ": cannot be written: File too large\n"),
            std::string::npos)
      << read_text(errors);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"err"});
}

TEST(Bench, LeavesNothingWhenInterrupted) {
  const TemporaryDirectory folder;
  const std::string file = (folder / "bench.json").string();
  const Outcome run = fathom({"bench", "scale", "--hot", "--repetitions", "1000", "--json", file},
                             {.interrupt_after = 20});  // the head of the table
  EXPECT_EQ(run.code, -SIGINT) << run.err;
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{});
}

TEST(Bench, NamesTheLineOfAFile) {
  const TemporaryDirectory folder;
  const std::string file = (folder / "list.txt").string();
  write_text(file, "# first\nscale:rows=2\nscale:rows=x  # no number\n");
  expect_refused(fathom({"bench", file}), file + ":3: scale: 'rows' cannot be 'x'");
  write_text(file, "\n# nothing\n");
  expect_refused(fathom({"bench", file}), file + ": has no problem");
}

}  // namespace
}  // namespace fathom::cli_test
