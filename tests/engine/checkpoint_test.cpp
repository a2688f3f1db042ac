#include "fathom/engine/checkpoint.hpp"

#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>

#include "core/file.hpp"
#include "engine/checkpoint_writer.hpp"
#include "engine/loader/safetensors_writer.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using safetensors::Declared;

// A directory whose only file holds the given tensors, with the small config.
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() { set_config(small_config()); }

  void set_config(const ModelConfig& config) { std::ofstream(dir_ / "config.json") << config_text(config); }

  void write(const std::string& file, const std::vector<Declared>& tensors,
             const std::vector<float>& values = {}) {
    std::vector<std::byte> bytes;
    for (const Declared& tensor : tensors)
      bytes.resize(bytes.size() + static_cast<std::size_t>(tensor.bytes()));
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), values.size() * sizeof(float));
    safetensors::Writer writer(dir_ / file, tensors);
    writer.write(bytes);
    writer.commit();
  }
  void write_index(const std::map<std::string, std::string>& map) {
    std::string text;
    for (const auto& [name, file] : map) text += (text.empty() ? "\"" : ",\"") + name + "\":\"" + file + "\"";
    std::ofstream(dir_ / "model.safetensors.index.json") << R"({"weight_map":{)" << text << "}}";
  }
  Checkpoint open() const { return Checkpoint::open(dir_.path()); }
  std::string path(const std::string& file) const { return (dir_ / file).string(); }

  TemporaryDirectory dir_;
};

TEST_F(CheckpointTest, OpensTheBundledModel) {
  const Checkpoint checkpoint = Checkpoint::open(fs::path(FATHOM_SOURCE_DIR) / "models/tiny-dsv32");
  EXPECT_NO_THROW(checkpoint.check());
  EXPECT_EQ(checkpoint.total_bytes(), 27480552);
  const Weight w = checkpoint.weight("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 576, 256);
  EXPECT_EQ(shape_string(w.scale), "[5,2]");
  EXPECT_EQ(w.values.dtype, DType::f8e4m3);
  const TensorView norm = checkpoint.tensor("model.norm.weight", {DType::bf16, DType::f32}, {256});
  EXPECT_EQ(norm.dtype, DType::bf16);
  // The MTP layer's embedding is a copy of the model's: the two shards' offsets must both be right.
  expect_same_bytes(checkpoint.tensor("model.embed_tokens.weight", {DType::bf16}, {4096, 256}),
                    checkpoint.tensor("model.layers.4.embed_tokens.weight", {DType::bf16}, {4096, 256}));
}

TEST_F(CheckpointTest, NamesMissingFiles) {
  EXPECT_ERROR(FileError,
               "nowhere: must be a directory with config.json and safetensors files, does not exist",
               Checkpoint::open(dir_ / "nowhere"));
  EXPECT_ERROR(FileError,
               "config.json: must be a directory with config.json and safetensors files, is a file",
               Checkpoint::open(dir_ / "config.json"));
  EXPECT_ERROR(FileError,
               dir_.path().string() + ": must hold model.safetensors or model.safetensors.index.json",
               open());
  write("1.safetensors", {{"a", DType::f32, {1}}});
  write_index({{"a", "1.safetensors"}, {"b", "2.safetensors"}});
  EXPECT_ERROR(FileError, path("2.safetensors") + ": is missing, and model.safetensors.index.json names it",
               open());
  const Checkpoint partial = Checkpoint::open(dir_.path(), {.allow_missing = true});
  EXPECT_EQ(partial.missing_files(), std::vector<std::string>{"2.safetensors"});
  EXPECT_TRUE(partial.has("a"));
}

TEST_F(CheckpointTest, RefusesWhatIsNoRegularFile) {
  for (const bool sharded : {false, true}) {
    const std::string name = sharded ? "1.safetensors" : "model.safetensors";
    if (sharded) write_index({{"a", name}});
    fs::create_directory(dir_ / name);
    EXPECT_ERROR(FileError, path(name) + ": must be a file, is a directory", open());
    fs::remove(dir_ / name);
    ASSERT_EQ(::mkfifo(path(name).c_str(), 0600), 0);
    EXPECT_ERROR(FileError, path(name) + ": must be a regular file", open());
    fs::remove(dir_ / name);
    fs::create_symlink("nowhere", dir_ / name);
    EXPECT_ERROR(FileError, path(name) + ": cannot be opened: No such file", open());
    fs::remove(dir_ / name);
    fs::create_symlink(name, dir_ / name);
    EXPECT_ERROR(FileError, path(name) + ": cannot be opened: Too many levels", open());
    fs::remove(dir_ / name);
  }
  // A download cache keeps files as links to their content: that must work.
  write("blob", {{"a", DType::f32, {1}}});
  fs::create_symlink("blob", dir_ / "1.safetensors");
  EXPECT_TRUE(open().has("a"));
}

TEST_F(CheckpointTest, RefusesTruncatedShards) {
  write("model.safetensors", {{"a", DType::f32, {64}}});
  const auto size = fs::file_size(dir_ / "model.safetensors");
  EXPECT_NO_THROW(open());
  // Every length: in the length field, in the header, in the tensors.
  for (std::uintmax_t length = size; length-- > 0;) {
    fs::resize_file(dir_ / "model.safetensors", length);
    EXPECT_ERROR(FileError, path("model.safetensors") + ": ", open());
  }
}

TEST_F(CheckpointTest, RefusesTensorsThatAreTwice) {
  write("1.safetensors", {{"a", DType::f32, {1}}});
  write("2.safetensors", {{"b", DType::f32, {1}}, {"a", DType::f32, {1}}});
  write_index({{"a", "1.safetensors"}, {"b", "2.safetensors"}});
  EXPECT_ERROR(FileError, path("2.safetensors") + ": tensor 'a' is also in 1.safetensors", open());
}

TEST_F(CheckpointTest, RefusesAnIndexThatLies) {
  write("1.safetensors", {{"a", DType::f32, {1}}});
  write("2.safetensors", {{"b", DType::f32, {1}}});
  write_index({{"a", "2.safetensors"}, {"b", "2.safetensors"}, {"c", "1.safetensors"}});
  EXPECT_ERROR(FileError, "index.json: tensor 'a' must be in 2.safetensors, is in 1.safetensors", open());
  write_index({{"a", "1.safetensors"}, {"b", "2.safetensors"}, {"c", "1.safetensors"}});
  EXPECT_ERROR(FileError, "index.json: tensor 'c' must be in 1.safetensors, is nowhere", open());
  write_index({{"a", "../1.safetensors"}});
  EXPECT_ERROR(FileError,
               "index.json: 'weight_map.a' must name a file of the same directory, got '../1.safetensors'",
               open());
}

TEST_F(CheckpointTest, ChecksDtypeAndShapeOfATensor) {
  write("model.safetensors", {{"a", DType::f32, {2, 3}}, {"b", DType::u8, {4}}});
  const Checkpoint checkpoint = open();
  EXPECT_EQ(shape_string(checkpoint.tensor("a", {DType::bf16, DType::f32}, {-1, 3})), "[2,3]");
  EXPECT_ERROR(FileError, path("model.safetensors") + ": tensor 'a' must be BF16 or F8_E4M3, is F32",
               checkpoint.tensor("a", {DType::bf16, DType::f8e4m3}, {2, 3}));
  EXPECT_ERROR(FileError, path("model.safetensors") + ": tensor 'a' must have shape [any,4], has [2,3]",
               checkpoint.tensor("a", {DType::f32}, {-1, 4}));
  EXPECT_ERROR(FileError, "must have shape [6], has [2,3]", checkpoint.tensor("a", {DType::f32}, {6}));
  EXPECT_ERROR(FileError, dir_.path().string() + ": tensor 'c' is missing",
               checkpoint.tensor("c", {DType::f32}, {6}));
  EXPECT_FALSE(checkpoint.has("c"));
}

TEST_F(CheckpointTest, ChecksScales) {
  const std::vector<Declared> tensors{{"w_scale_inv", DType::f32, {2, 2}}, {"w", DType::f8e4m3, {129, 130}}};
  const auto weight = [&] { return open().weight("w", 129, 130); };
  write("model.safetensors", tensors, {0.1f, 3e38f, -1.5f, 0});  // any finite value
  EXPECT_EQ(weight().scale.size(0), 2);
  write("model.safetensors", tensors, {0.1f, 1, INFINITY, 1});
  EXPECT_ERROR(FileError,
               path("model.safetensors") + ": tensor 'w_scale_inv' must hold finite values, has inf at [1,0]",
               weight());
  write("model.safetensors", tensors, {1, 1, 1, NAN});
  EXPECT_ERROR(FileError, "has nan at [1,1]", weight());

  ModelConfig config = small_config();
  config.quantization_config->ue8m0 = true;
  set_config(config);
  write("model.safetensors", tensors, {0.5f, 1, 0x1p-127f, 0x1p127f});
  EXPECT_NO_THROW(weight());
  for (const float bad :
       {0.0f, -1.0f, 1.5f, INFINITY, NAN, 0x1p-128f, 0x1p-149f, std::nextafter(2.0f, 3.0f)}) {
    write("model.safetensors", tensors, {0.5f, 1, bad, 1});
    EXPECT_ERROR(FileError, "tensor 'w_scale_inv' must hold powers of two (scale_fmt is ue8m0), has",
                 weight());
  }

  write("model.safetensors", {{"w_scale_inv", DType::f32, {1, 2}}, {"w", DType::f8e4m3, {129, 130}}}, {1, 1});
  EXPECT_ERROR(FileError, "tensor 'w_scale_inv' must have shape [2,2], has [1,2]", weight());
  write("model.safetensors", {{"w_scale_inv", DType::bf16, {2, 2}}, {"w", DType::f8e4m3, {129, 130}}});
  EXPECT_ERROR(FileError, "tensor 'w_scale_inv' must be F32, is BF16", weight());
  write("model.safetensors", {{"w", DType::f8e4m3, {129, 130}}});
  EXPECT_ERROR(FileError, "tensor 'w_scale_inv' is missing", weight());
  config.quantization_config.reset();
  set_config(config);
  EXPECT_ERROR(FileError, "tensor 'w' is F8_E4M3, but config.json has no quantization_config", weight());
  write("model.safetensors", {{"w", DType::bf16, {129, 130}}});
  EXPECT_FALSE(weight().scale.given());
  write("model.safetensors", {{"w", DType::f16, {129, 130}}});
  EXPECT_ERROR(FileError, "tensor 'w' must be F8_E4M3 or BF16 or F32, is F16", weight());
}

TEST_F(CheckpointTest, CheckFindsTheFirstOffenceAndCountsTheRest) {
  const TemporaryDirectory whole;
  write_checkpoint(whole.path(), small_config(),
                   {.shards = 2, .omit = [](const ExpectedTensor& t) {
                      return t.name == "model.layers.1.self_attn.o_proj.weight_scale_inv" ||
                             t.name == "model.norm.weight";
                    }});
  // The index still names them: that is found first.
  EXPECT_ERROR(FileError, "is nowhere", Checkpoint::open(whole.path()));
  const Checkpoint checkpoint = Checkpoint::open(whole.path(), {.allow_missing = true});
  EXPECT_EQ(
      checkpoint.missing(),
      (std::vector<std::string>{"model.layers.1.self_attn.o_proj.weight_scale_inv", "model.norm.weight"}));
  EXPECT_ERROR(FileError,
               whole.path().string() +
                   ": tensor 'model.layers.1.self_attn.o_proj.weight_scale_inv' is missing (and 1 more)",
               checkpoint.check());
}

// A matrix may be kept in bf16 although the others are f8e4m3; it has no scale then.
TEST_F(CheckpointTest, AWideMatrixNeedsNoScale) {
  ModelConfig config = small_config();
  config.quantization_config.reset();
  write_checkpoint(dir_.path(), config);
  set_config(small_config());
  EXPECT_NO_THROW(open().check());
  EXPECT_TRUE(open().missing().empty());
}

TEST_F(CheckpointTest, CopiesWhatIsNotAligned) {
  std::vector<float> values(3);
  values[0] = 0;
  write("model.safetensors", {{"odd", DType::u8, {3}}, {"a", DType::f32, {2}}});
  {
    std::fstream file(path("model.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
    const float pair[] = {1.25f, -7};
    file.seekp(-8, std::ios::end);
    file.write(reinterpret_cast<const char*>(pair), 8);
  }
  const Checkpoint checkpoint = open();
  const TensorView a = checkpoint.tensor("a", {DType::f32}, {2});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data) % 4, 0u);
  EXPECT_EQ(a.as<float>()[0], 1.25f);
  EXPECT_EQ(a.as<float>()[1], -7);
  EXPECT_EQ(checkpoint.tensor("a", {DType::f32}, {2}).data, a.data) << "copied twice";
  EXPECT_NO_THROW(checkpoint.release_pages(a));
}

// Pages of the file in this process's memory, in KB.
std::int64_t resident_file_kb() {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("RssFile:")) return std::stoll(line.substr(8));
  }
  ADD_FAILURE() << "/proc/self/status has no RssFile";
  return 0;
}

TEST_F(CheckpointTest, ReleasedPagesLeaveMemoryAndComeBack) {
  write("model.safetensors", {{"a", DType::f32, {64 << 18}}}, {3.5f});
  const Checkpoint checkpoint = open();
  const TensorView a = checkpoint.tensor("a", {DType::f32}, {-1});
  const auto touch = [&] {
    float sum = 0;
    for (std::int64_t i = 0; i < a.count(); i += 1024) sum += a.as<float>()[i];
    return sum;
  };
  const std::int64_t before = resident_file_kb();
  EXPECT_EQ(touch(), 3.5f);
  const std::int64_t touched = resident_file_kb();
  EXPECT_GT(touched - before, 60 << 10);
  checkpoint.release_pages(a);
  EXPECT_LT(resident_file_kb() - before, 8 << 10);
  EXPECT_EQ(touch(), 3.5f);
}

}  // namespace
}  // namespace fathom
