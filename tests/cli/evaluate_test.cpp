// fathom logits and fathom perplexity, and every way in which a model's files can be bad.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "cli/program.hpp"

namespace fathom::cli_test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Logits {
  std::int64_t rows = 0;
  std::vector<float> values;
};

Logits read_logits(const fs::path& file) {
  const std::string bytes = read_text(file);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  const Json header = Json::parse(bytes.substr(8, length)).at("logits");
  EXPECT_EQ(header.at("dtype"), "F32");
  EXPECT_EQ(header.at("shape").at(1), 4096);
  Logits logits{.rows = header.at("shape").at(0), .values = {}};
  logits.values.resize(static_cast<std::size_t>(logits.rows) * 4096);
  EXPECT_EQ(bytes.size(), 8 + length + logits.values.size() * sizeof(float));
  std::memcpy(logits.values.data(), bytes.data() + 8 + length, bytes.size() - 8 - length);
  return logits;
}

// A limit of a file's size stands in for the disk's.
TEST(Logits, AFullDiskIsAFailureOfTheMachine) {
  const TemporaryDirectory folder;
  const std::string ids = (folder / "ids.json").string(), out = (folder / "out").string();
  const std::string errors = (folder / "err").string();
  write_text(ids, "[0, 10]");
  const std::string command = "ulimit -f 1; trap '' XFSZ; '" FATHOM_PROGRAM "' logits --model '" +
                              random_model().string() + "' --ids '" + ids + "' -o '" + out + "' 2> '" +
                              errors + "'";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
  EXPECT_EQ(read_text(errors), "fathom: " + out + ": cannot be written: File too large\n");
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"err", "ids.json"}));
  expect_refused(fathom({"logits", "--model", random_model().string(), "--ids", ids, "-o", "/dev/full"}),
                 "/dev/full: must be a regular file");
}

TEST(Logits, WritesAllOrTheLastPositions) {
  const TemporaryDirectory folder;
  write_text(folder / "ids.json", "[0, 10, 20, 30, 40]");
  const auto run = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"logits",
                                       "--model",
                                       random_model().string(),
                                       "--ids",
                                       (folder / "ids.json").string(),
                                       "-o",
                                       (folder / name).string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return fathom(arguments);
  };
  const Outcome all_run = run("all", {});
  expect_done(all_run);
  EXPECT_EQ(all_run.out, "");
  expect_done(run("last", {"--last", "2", "--prefill-chunk", "1", "--threads", "1"}));
  const Logits all = read_logits(folder / "all");
  const Logits last = read_logits(folder / "last");
  EXPECT_EQ(all.rows, 5);
  ASSERT_EQ(last.rows, 2);
  for (const float value : all.values) ASSERT_TRUE(std::isfinite(value));
  EXPECT_EQ(0, std::memcmp(all.values.data() + 3 * 4096, last.values.data(), 2 * 4096 * sizeof(float)));

  // Its file does not take the number of a stream that is closed.
  const Outcome closed = fathom({"logits", "--model", random_model().string(), "--ids",
                                 (folder / "ids.json").string(), "-o", (folder / "closed").string()},
                                {.environment = {{"FATHOM_VERBOSE", "time"}}, .closed = true});
  EXPECT_EQ(closed.code, 0);
  EXPECT_EQ(read_text(folder / "closed"), read_text(folder / "all"));
  fs::remove(folder / "closed");

  expect_refused(run("more", {"--last", "6"}), "--last must be at most the 5 ids");
  expect_refused(run("missing/file", {}), (folder / "missing/file").string());
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"all", "ids.json", "last"}));
}

TEST(Perplexity, CountsEveryPredictedToken) {
  const TemporaryDirectory folder;
  write_text(folder / "flat.json", "[0,1,2,3,4,5,6,7,8,9,10]");
  write_text(folder / "lists.json", "[[0,1,2,3],[4,5,6,7],[8,9,10]]");
  const auto run = [&](const std::string& name) {
    const Outcome result = fathom({"perplexity", "--model", random_model().string(), "--ids",
                                   (folder / name).string(), "--window", "4", "--json"});
    expect_done(result);
    return Json::parse(result.out);
  };
  write_text(folder / "short.json", "[[0,1],[2]]");
  const auto refused = [&](const std::string& name, const std::string& text) {
    expect_refused(
        fathom({"perplexity", "--model", random_model().string(), "--ids", (folder / name).string()}),
        (folder / name).string() + ": " + text);
  };
  refused("short.json", "ids[1] must have at least 2 token ids, got a list of 1");
  write_text(folder / "short.json", "[7]");
  refused("short.json", "ids must have at least 2 token ids, got a list of 1");
  const Json flat = run("flat.json");
  const Json lists = run("lists.json");
  EXPECT_EQ(flat.at("predicted_tokens"), 8);
  EXPECT_EQ(flat.at("nll_per_window"), lists.at("nll_per_window"));
  EXPECT_NEAR(flat.at("perplexity").get<double>(), lists.at("perplexity").get<double>(),
              1e-9 * flat.at("perplexity").get<double>());
  EXPECT_NEAR(std::log(flat.at("perplexity").get<double>()), flat.at("mean_nll").get<double>(), 1e-12);
  const Outcome plain =
      fathom({"perplexity", "--model", random_model().string(), "--ids", (folder / "flat.json").string()});
  expect_done(plain);
  EXPECT_EQ(plain.out.rfind("perplexity ", 0), 0u);
  EXPECT_EQ(std::count(plain.out.begin(), plain.out.end(), '\n'), 1);
}

// Breaks a copy of the model in one way and asks for logits: refused in one line that names the file, and no
// output.
class BadModel : public ::testing::Test {
 protected:
  void refused(const std::string& text, const std::function<void(const fs::path&)>& break_it) {
    SCOPED_TRACE(text);
    const TemporaryDirectory folder;
    const fs::path model = folder / "model";
    copy_random_model(model);
    write_text(folder / "ids.json", "[1, 2]");
    break_it(model);
    const Outcome run = fathom({"logits", "--model", model.string(), "--ids", (folder / "ids.json").string(),
                                "-o", (folder / "out").string()});
    expect_refused(run, text);
    EXPECT_NE(run.err.find(model.string()), std::string::npos) << run.err;
    EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"ids.json", "model"}));
  }

  // Rewrites the header of model.safetensors and keeps the data.
  static void edit_header(const fs::path& model, const std::function<void(Json&)>& edit) {
    const std::string bytes = read_text(model / "model.safetensors");
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    Json header = Json::parse(bytes.substr(8, length));
    edit(header);
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const std::uint64_t size = text.size();
    write_text(model / "model.safetensors", std::string(reinterpret_cast<const char*>(&size), sizeof size) +
                                                text + bytes.substr(8 + length));
  }
  static void edit_config(const fs::path& model, const std::function<void(Json&)>& edit) {
    Json config = Json::parse(read_text(model / "config.json"));
    edit(config);
    write_text(model / "config.json", config.dump());
  }
};

TEST_F(BadModel, Files) {
  refused("config.json", [](const fs::path& model) { fs::remove(model / "config.json"); });
  refused("safetensors", [](const fs::path& model) { fs::remove(model / "model.safetensors"); });
  refused("config.json",
          [](const fs::path& model) { write_text(model / "config.json", "{\"hidden_size\": "); });
  refused("model.safetensors", [](const fs::path& model) {
    fs::resize_file(model / "model.safetensors", fs::file_size(model / "model.safetensors") - 1000);
  });
  refused("model.safetensors",
          [](const fs::path& model) { write_text(model / "model.safetensors", "short"); });
  refused("model.safetensors", [](const fs::path& model) {
    write_text(model / "model.safetensors", std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));
  });
}

TEST_F(BadModel, Config) {
  refused("model_type", [](const fs::path& model) {
    edit_config(model, [](Json& config) { config["model_type"] = "llama"; });
  });
  refused("hidden_size", [](const fs::path& model) {
    edit_config(model, [](Json& config) { config["hidden_size"] = "big"; });
  });
  refused("num_attention_heads", [](const fs::path& model) {
    edit_config(model, [](Json& config) { config.erase("num_attention_heads"); });
  });
  // Terabytes: refused before anything is allocated.
  refused("config.json", [](const fs::path& model) {
    edit_config(model, [](Json& config) { config["vocab_size"] = std::int64_t{1} << 40; });
  });
}

TEST_F(BadModel, Tensors) {
  const auto header = [&](const std::string& text, const std::function<void(Json&)>& edit) {
    refused(text, [&](const fs::path& model) { edit_header(model, edit); });
  };
  const char* norm = "model.norm.weight";
  header("model.norm.weight", [&](Json& h) {
    h["other"] = h[norm];
    h.erase(norm);
  });
  header("model.norm.weight", [&](Json& h) { h[norm]["shape"] = {7}; });
  header("model.norm.weight", [&](Json& h) { h[norm]["dtype"] = "I32"; });
  header("model.norm.weight", [&](Json& h) { h[norm]["dtype"] = "Q4"; });
  header("model.norm.weight", [&](Json& h) { h[norm]["data_offsets"] = {0, std::int64_t{1} << 60}; });
  header("model.norm.weight", [&](Json& h) { h[norm]["data_offsets"] = {8, 4}; });
  header("model.safetensors",
         [&](Json& h) { h[norm]["data_offsets"] = h["lm_head.weight"]["data_offsets"]; });
  header("model.norm.weight", [&](Json& h) {
    h[norm]["shape"] = {std::int64_t{1} << 40, std::int64_t{1} << 40};
  });
  header("weight_scale_inv", [&](Json& h) {
    for (auto& [name, tensor] : h.items()) {
      if (name.find("q_a_proj.weight_scale_inv") == std::string::npos) continue;
      const std::int64_t count =
          tensor["shape"][0].get<std::int64_t>() * tensor["shape"][1].get<std::int64_t>();
      tensor["shape"] = {count, 1, 1};
    }
  });
}

TEST_F(BadModel, Tokenizer) {
  const TemporaryDirectory folder;
  copy_random_model(folder / "model");
  write_text(folder / "model/tokenizer.json", "{\"model\": {\"type\": \"BPE\"");
  expect_refused(fathom({"generate", "--model", (folder / "model").string(), "--prompt", "x"}),
                 (folder / "model/tokenizer.json").string());
}

}  // namespace
}  // namespace fathom::cli_test
