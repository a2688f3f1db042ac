#include "engine/loader/safetensors.hpp"

#include <cstring>

#include "core/file.hpp"
#include "engine/checkpoint_writer.hpp"
#include "engine/loader/index.hpp"
#include "engine/loader/safetensors_writer.hpp"
#include "ops/op_test.hpp"

namespace fathom::safetensors {
namespace {

// A file of this header and `data` bytes after it.
std::string file_of(std::string_view header, std::size_t data) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + std::string(header) + std::string(data, 'x');
}

std::vector<Entry> parse(std::string_view header, std::size_t data) {
  const std::string file = file_of(header, data);
  return parse_header(std::as_bytes(std::span(file)), "f.safetensors");
}

TEST(Safetensors, ReadsEntriesInOrder) {
  const std::string_view header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("a":{"data_offsets":[24,25],"shape":[],"dtype":"F8_E4M3"},"z":{"dtype":"I64","shape":[0,5],"data_offsets":[25,25]}}  )";
  const auto entries = parse(header, 25);
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].name, "b");
  EXPECT_EQ(entries[0].rank, 2);
  EXPECT_EQ(entries[0].shape[1], 3);
  EXPECT_EQ(entries[0].begin, std::ssize(header) + 8);
  EXPECT_EQ(entries[0].dtype(), DType::f32);
  EXPECT_EQ(entries[1].type_name(), "F8_E4M3");
  EXPECT_EQ(entries[1].rank, 0);
  EXPECT_EQ(entries[2].end, entries[2].begin);
  EXPECT_TRUE(parse("{}", 0).empty());
}

struct BadHeader {
  std::string header;
  std::size_t data;
  std::string message;
};

TEST(Safetensors, RefusesEveryBrokenHeader) {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const BadHeader cases[] = {
      {one("F32", "[2]", "[0,4]"), 4, "tensor 'a' of F32 [2] must have 8 bytes, has 4"},
      {one("F32", "[2]", "[0,8]"), 4,
       "tensor 'a' ends at offset 8, but the file has only 4 bytes of tensors"},
      {one("F32", "[1]", "[8,4]"), 4, "tensor 'a' ends at offset 4, before its begin 8"},
      {one("U8", "[4]", "[18446744073709551612,0]"), 4, "offset 18446744073709551612, which does not fit"},
      {one("U8", "[4]", "[9223372036854775807,9223372036854775807]"), 4,
       "ends at offset 9223372036854775807"},
      {one("F32", "[4294967296,4294967296]", "[0,4]"), 4,
       "the size of shape [4294967296,4294967296] overflows"},
      {one("F32", "[2305843009213693952]", "[0,0]"), 0, "overflows"},
      {one("F32", "[1,1,1,1,1,1]", "[0,4]"), 4, "tensor 'a' must have at most 5 axes"},
      {one("F32", "[-1]", "[0,4]"), 4,
       "tensor 'a' must have a list of sizes from 0 as 'shape', has a negative number"},
      {one("F32", "[1.5]", "[0,4]"), 4, "has a fraction"},
      {one("F32", "[[1]]", "[0,4]"), 4, "has a list"},
      {one("F32", "1", "[0,4]"), 4, "has a number"},
      {one("F32", "[1]", "[0]"), 4, "must have 2 data_offsets, has 1"},
      {one("F32", "[1]", "[0,4,4]"), 4, "must have 2 data_offsets, has 3"},
      {one("F33", "[1]", "[0,4]"), 4, "tensor 'a' has the unknown dtype 'F33'"},
      {R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4,
       "must have a string as 'dtype', has a number"},
      {R"({"a":{"dtype":"U8","shape":[4]}})", 4, "tensor 'a' has no 'data_offsets'"},
      {R"({"a":{}})", 0, "tensor 'a' has no 'dtype'"},
      {R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4,
       "tensor 'a' has 'dtype' twice"},
      {R"({"a":{"dtype":"U8","extra":1}})", 4, "tensor 'a' has the unknown key 'extra'"},
      {R"({"a":null})", 0, "must map names to objects, has null"},
      {R"({"a":[1]})", 0, "must map names to objects, has a list"},
      {R"({"__metadata__":{"x":1}})", 0, "has a number"},
      {R"({"__metadata__":{"x":"1","x":"2"}})", 0, "__metadata__ has 'x' twice"},
      {"{" + a + "," + a + "}", 4, "tensor 'a' is listed twice"},
      {"{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6,
       "tensors 'a' and 'b' overlap"},
      {"{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4,
       "tensors 'a' and 'b' overlap"},
      {"{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})", 10,
       "2 bytes before tensor 'b' belong to no tensor"},
      {"{" + a + "}", 7, "the last 3 bytes belong to no tensor"},
      {"{" + a, 4, "broken JSON at line 1, column"},
      {"{" + a + "} x", 4, "broken JSON at line 1, column"},
      {"[1]", 0, "its header does not begin with '{'"},
      {"", 0, "its header does not begin with '{'"},
      {R"({"a)"
       "\xff"
       R"(":{}})",
       0, "broken JSON"},
  };
  for (const BadHeader& bad : cases) {
    SCOPED_TRACE(bad.header);
    EXPECT_ERROR(FileError, bad.message, parse(bad.header, bad.data));
    EXPECT_ERROR(FileError, "f.safetensors: ", parse(bad.header, bad.data));
  }
}

TEST(Safetensors, RefusesWrongHeaderLengths) {
  const auto with_length = [](std::uint64_t length) {
    std::string file = file_of("{}", 0);
    std::memcpy(file.data(), &length, 8);
    return parse_header(std::as_bytes(std::span(file)), "f.safetensors");
  };
  EXPECT_NO_THROW(with_length(2));
  for (const std::uint64_t length :
       {std::uint64_t{3}, std::uint64_t{1} << 40, ~std::uint64_t{0}, ~std::uint64_t{7}}) {
    EXPECT_ERROR(FileError,
                 "the header must end inside of the file, which has 10 bytes; its length is given as",
                 with_length(length));
  }
  const std::string tiny = "1234567";
  EXPECT_ERROR(FileError, "is no safetensors file: it has 7 bytes",
               parse_header(std::as_bytes(std::span(tiny)), "f.safetensors"));
}

TEST(Safetensors, IndexNamesFilesOfItsFolderOnly) {
  const auto index =
      parse_index(R"({"metadata":{"x":[{"y":1}]},"weight_map":{"b":"2.st","a":"1.st","c":"2.st"}})", "i");
  EXPECT_EQ(index.shards, (std::vector<std::string>{"2.st", "1.st"}));
  EXPECT_EQ(index.tensors[2], (std::pair<std::string, std::int32_t>{"c", 0}));
  for (const std::string name :
       {"../x", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "a\\u0000b", "a\\nb"}) {
    EXPECT_ERROR(FileError, "i: 'weight_map.a' must name a file of the same directory, got '",
                 parse_index(R"({"weight_map":{"a":")" + name + "\"}}", "i"));
  }
  EXPECT_ERROR(FileError, "must name a file of the same directory",
               parse_index(R"({"weight_map":{"a":")" + std::string(256, 'x') + "\"}}", "i"));
  EXPECT_ERROR(FileError, "i: 'weight_map' must be an object, got nothing", parse_index("{}", "i"));
  EXPECT_ERROR(FileError, "'weight_map' must be an object, got a list",
               parse_index(R"({"weight_map":[]})", "i"));
  EXPECT_ERROR(FileError, "'weight_map.a' must be a file name, got a number",
               parse_index(R"({"weight_map":{"a":1}})", "i"));
  EXPECT_ERROR(FileError, "'weight_map.a' must be a file name, got an object",
               parse_index(R"({"weight_map":{"a":{}}})", "i"));
  EXPECT_ERROR(FileError, "tensor 'a' is listed twice",
               parse_index(R"({"weight_map":{"a":"x","a":"x"}})", "i"));
  EXPECT_ERROR(FileError, "the key 'weight_map' occurs twice",
               parse_index(R"({"weight_map":{},"weight_map":{}})", "i"));
  EXPECT_ERROR(FileError, "must hold a JSON object, holds a list", parse_index("[]", "i"));
  EXPECT_ERROR(FileError, "nests deeper", parse_index(R"({"metadata":)" + std::string(100000, '['), "i"));
  EXPECT_ERROR(FileError, "i: broken JSON at line 1, column", parse_index(R"({"weight_map":{"a":"x")", "i"));
}

TEST(SafetensorsWriter, RoundTrips) {
  const TemporaryDirectory dir;
  Random random(7);
  const Tensor a = random.normal(DType::f32, {3, 5});
  const Tensor b = random.normal(DType::bf16, {7});
  write_file(dir / "out.safetensors",
             std::vector<std::pair<std::string, TensorView>>{{"quote\"d\n", a}, {"b", b}});
  const MappedFile file(dir / "out.safetensors");
  const std::span<const std::byte> bytes(file.data(), static_cast<std::size_t>(file.size()));
  const auto entries = parse_header(bytes, "out");
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].name, "quote\"d\n");
  EXPECT_EQ(entries[0].begin % 8, 0);
  EXPECT_EQ(std::memcmp(file.data() + entries[0].begin, a.view().data, 60), 0);
  EXPECT_EQ(std::memcmp(file.data() + entries[1].begin, b.view().data, 14), 0);
}

TEST(SafetensorsWriter, LeavesNothingHalfWritten) {
  const TemporaryDirectory dir;
  const std::vector<Declared> tensors{{"a", DType::f32, {4}}};
  const std::vector<std::byte> bytes(17);
  {
    Writer writer(dir / "out", tensors);
    writer.write(std::span(bytes).first(8));
    EXPECT_ERROR(InvalidArgument, "8 bytes of the tensors are missing", writer.commit());
  }
  {
    Writer writer(dir / "out", tensors);
    EXPECT_ERROR(InvalidArgument, "more bytes than the tensors hold", writer.write(bytes));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  EXPECT_ERROR(InvalidArgument, "tensor 'a' is given twice",
               Writer(dir / "out", std::vector<Declared>{tensors[0], tensors[0]}));
  EXPECT_ERROR(FileError, "cannot be written", Writer(dir / "nowhere" / "out", tensors));
  EXPECT_ERROR(InvalidArgument, "a size that cannot be",
               make_header(std::vector<Declared>{{"a", DType::f32, {1LL << 40, 1LL << 40}}}));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace fathom::safetensors
