#include "deepseek/loader.h"

#include <elf.h>

#include <cstring>
#include <random>
#include <vector>

#include "deepseek/program.h"
#include "test.h"

namespace deepseek {
namespace {

// Sections of the object below, in order.
enum { kNull, kText, kRela, kSymbols, kStrings, kSections };

// An object with one kernel that sets sizes[0] bytes of buffers[0] to 7 through `callee`:
//   mov rdi, [rdi]; mov rdx, [rsi]; mov esi, 7; jmp callee
std::vector<char> make_object(const std::string& callee, uint32_t relocation = R_X86_64_PLT32) {
  const unsigned char text[] = {0x48, 0x8b, 0x3f, 0x48, 0x8b, 0x16, 0xbe, 7,
                                0,    0,    0,    0xe9, 0,    0,    0,    0};
  const std::string strings = std::string("\0fill\0", 6) + callee + std::string(1, '\0');
  Elf64_Sym symbols[3] = {};
  symbols[1].st_name = 1;
  symbols[1].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC);
  symbols[1].st_shndx = kText;
  symbols[1].st_size = sizeof text;
  symbols[2].st_name = 6;
  symbols[2].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_NOTYPE);
  const Elf64_Rela rela{12, ELF64_R_INFO(uint64_t{2}, relocation), -4};

  std::vector<char> file(sizeof(Elf64_Ehdr));
  Elf64_Shdr sections[kSections] = {};
  const auto add = [&](int index, uint32_t type, const void* data, size_t nbytes) {
    file.resize((file.size() + 15) & ~size_t{15});
    sections[index].sh_type = type;
    sections[index].sh_offset = file.size();
    sections[index].sh_size = nbytes;
    sections[index].sh_addralign = 16;
    const char* bytes = static_cast<const char*>(data);
    file.insert(file.end(), bytes, bytes + nbytes);
  };
  add(kText, SHT_PROGBITS, text, sizeof text);
  add(kRela, SHT_RELA, &rela, sizeof rela);
  add(kSymbols, SHT_SYMTAB, symbols, sizeof symbols);
  add(kStrings, SHT_STRTAB, strings.data(), strings.size());
  sections[kText].sh_flags = SHF_ALLOC | SHF_EXECINSTR;
  sections[kRela].sh_info = kText;
  sections[kRela].sh_link = kSymbols;
  sections[kRela].sh_entsize = sizeof(Elf64_Rela);
  sections[kSymbols].sh_link = kStrings;

  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_REL;
  header.e_machine = EM_X86_64;
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = kSections;
  header.e_shoff = file.size();
  std::memcpy(file.data(), &header, sizeof header);
  const char* table = reinterpret_cast<const char*>(sections);
  file.insert(file.end(), table, table + sizeof sections);
  return file;
}

TEST(a_kernel_calls_memset) {
  const std::vector<char> object = make_object("memset");
  const Code code(object.data(), object.size());
  CHECK_EQUAL(code.symbols().size(), size_t{1});
  CHECK(code.symbol("empty") == nullptr);
  char bytes[8] = {};
  void* buffers[] = {bytes};
  const int64_t sizes[] = {5};
  reinterpret_cast<Kernel>(code.symbol("fill"))(buffers, sizes, 0, 1, nullptr);
  CHECK_EQUAL(std::string(bytes, 8), std::string("\7\7\7\7\7\0\0\0", 8));
}

TEST(unknown_symbols_and_relocations_are_refused_by_name) {
  const auto load = [](const std::vector<char>& object) { Code(object.data(), object.size()); };
  CHECK_THROWS(LoadError, "undefined symbol 'system'", load(make_object("system")));
  CHECK_THROWS(LoadError, "R_X86_64_32S", load(make_object("memset", R_X86_64_32S)));
  CHECK_THROWS(LoadError, "type 37", load(make_object("memset", 37)));
}

TEST(every_cut_is_refused) {
  const std::vector<char> object = make_object("memset");
  for (size_t length = 0; length < object.size(); ++length) {
    const std::vector<char> cut(object.begin(), object.begin() + static_cast<long>(length));
    CHECK_THROWS(LoadError, "object file", Code(cut.data(), cut.size()));
  }
}

TEST(damaged_objects_never_crash_the_loader) {
  const std::vector<char> object = make_object("memset");
  std::mt19937 random(5);
  int refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<char> damaged = object;
    for (unsigned i = random() % 4 + 1; i > 0; --i) {
      damaged[random() % damaged.size()] = static_cast<char>(random() % 3 == 0 ? 0xff : random());
    }
    try {
      const Code code(damaged.data(), damaged.size());
    } catch (const LoadError&) {
      ++refused;
    }
  }
  CHECK(refused > 1000 && refused < 20'000);
}

}  // namespace
}  // namespace deepseek
