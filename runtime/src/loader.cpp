#include "deepseek/loader.h"

#include <elf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

namespace deepseek {
namespace {

constexpr size_t kPage = 4096;
constexpr uint64_t kMostBytes = uint64_t{1} << 30;  // PC-relative code reaches 2 GiB
constexpr size_t kStubBytes = 16;                   // jmp *0(%rip), then the address
constexpr uint64_t kUnplaced = ~uint64_t{0};

[[noreturn]] void fail(const std::string& what) {
  throw LoadError("object file: " + what);
}

struct External {
  std::string_view name;
  void* address;
};

const External kExternals[] = {
    {"memcpy", reinterpret_cast<void*>(&std::memcpy)},
    {"memmove", reinterpret_cast<void*>(&std::memmove)},
    {"memset", reinterpret_cast<void*>(&std::memset)},
};

// Sections are grouped by their protection; each group begins on a page.
enum Group { kCode, kReadOnly, kWritable, kGroups };

// Bounds-checked reads of the file.
class File {
 public:
  File(const void* data, size_t nbytes) : data_(static_cast<const char*>(data)), nbytes_(nbytes) {}

  const char* bytes(uint64_t offset, uint64_t count, const char* what) const {
    if (offset > nbytes_ || count > nbytes_ - offset) {
      fail(std::string(what) + " lies outside the file (it is damaged or cut short)");
    }
    return data_ + offset;
  }

  template <typename T>
  T read(uint64_t offset, const char* what) const {
    T value;
    std::memcpy(&value, bytes(offset, sizeof value, what), sizeof value);
    return value;
  }

  template <typename T>
  std::vector<T> table(uint64_t offset, uint64_t count, const char* what) const {
    if (count > nbytes_ / sizeof(T)) {
      fail(std::string(what) + " lies outside the file (it is damaged or cut short)");
    }
    std::vector<T> values(count);
    if (count > 0) {
      std::memcpy(values.data(), bytes(offset, count * sizeof(T), what), count * sizeof(T));
    }
    return values;
  }

 private:
  const char* data_;
  size_t nbytes_;
};

// One load: reads the headers, lays the sections out, copies, relocates, protects.
class Loading {
 public:
  Loading(const void* data, size_t nbytes) : file_(data, nbytes) {
    read_sections();
    read_symbols();
    lay_out();
  }

  size_t mapped_bytes() const { return group_end_[kGroups - 1]; }

  void fill(char* mapping) {
    mapping_ = mapping;
    for (size_t i = 0; i < sections_.size(); ++i) {
      const Elf64_Shdr& section = sections_[i];
      if (placed(i) && section.sh_type != SHT_NOBITS && section.sh_size > 0) {
        std::memcpy(mapping_ + place_[i], section_bytes(section), section.sh_size);
      }
    }
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type == SHT_RELA && section.sh_info < sections_.size() &&
          placed(section.sh_info)) {
        relocate(section);
      }
    }
    protect(kCode, PROT_READ | PROT_EXEC);
    protect(kReadOnly, PROT_READ);
  }

  std::map<std::string, void*, std::less<>> exported() const {
    std::map<std::string, void*, std::less<>> symbols;
    for (const Elf64_Sym& symbol : symbols_) {
      const int binding = ELF64_ST_BIND(symbol.st_info);
      if ((binding == STB_GLOBAL || binding == STB_WEAK) && symbol.st_shndx != SHN_UNDEF &&
          symbol.st_shndx < sections_.size() && placed(symbol.st_shndx)) {
        symbols.emplace(name_of(symbol), mapping_ + place_[symbol.st_shndx] + symbol.st_value);
      }
    }
    return symbols;
  }

 private:
  bool placed(size_t section) const { return place_[section] != kUnplaced; }

  const char* section_bytes(const Elf64_Shdr& section) const {
    return file_.bytes(section.sh_offset, section.sh_size, "a section");
  }

  void read_sections() {
    const auto header = file_.read<Elf64_Ehdr>(0, "the header");
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
      fail("not an ELF file");
    }
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_machine != EM_X86_64 || header.e_type != ET_REL) {
      fail("not a relocatable object for x86-64");
    }
    if (header.e_shentsize != sizeof(Elf64_Shdr)) {
      fail("section headers have an unknown size");
    }
    sections_ = file_.table<Elf64_Shdr>(header.e_shoff, header.e_shnum, "the section table");
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type != SHT_NOBITS && section.sh_type != SHT_NULL) {
        section_bytes(section);
      }
    }
  }

  void read_symbols() {
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type != SHT_SYMTAB) {
        continue;
      }
      if (!symbols_.empty()) {
        fail("more than one symbol table");
      }
      if (section.sh_link >= sections_.size() || sections_[section.sh_link].sh_type != SHT_STRTAB) {
        fail("the symbol table has no string table");
      }
      strings_ = sections_[section.sh_link];
      symbols_ = file_.table<Elf64_Sym>(section.sh_offset, section.sh_size / sizeof(Elf64_Sym),
                                        "the symbol table");
    }
    for (const Elf64_Sym& symbol : symbols_) {
      const std::string name = name_of(symbol);
      if (symbol.st_shndx == SHN_COMMON || symbol.st_shndx == SHN_XINDEX) {
        fail("symbol '" + name + "' is of an unsupported kind");
      }
      if (symbol.st_shndx < sections_.size() && symbol.st_shndx != SHN_UNDEF &&
          symbol.st_value > sections_[symbol.st_shndx].sh_size) {
        fail("symbol '" + name + "' lies outside its section");
      }
    }
  }

  std::string name_of(const Elf64_Sym& symbol) const {
    if (symbol.st_name >= strings_.sh_size) {
      if (symbol.st_name == 0) {
        return "";
      }
      fail("a symbol's name lies outside the string table");
    }
    const char* begin = section_bytes(strings_) + symbol.st_name;
    const char* end = section_bytes(strings_) + strings_.sh_size;
    const std::string name(begin, std::find(begin, end, '\0'));
    const auto printable = [](char c) { return c > ' ' && c <= '~'; };
    if (!std::all_of(name.begin(), name.end(), printable)) {
      fail("a symbol's name has unprintable bytes");
    }
    return name;
  }

  static Group group_of(const Elf64_Shdr& section) {
    if ((section.sh_flags & SHF_EXECINSTR) != 0) {
      if ((section.sh_flags & SHF_WRITE) != 0) {
        fail("a section is writable and executable");
      }
      return kCode;
    }
    return (section.sh_flags & SHF_WRITE) != 0 ? kWritable : kReadOnly;
  }

  void lay_out() {
    place_.assign(sections_.size(), kUnplaced);
    uint64_t at = 0;
    for (int group = 0; group < kGroups; ++group) {
      group_begin_[group] = at;
      for (size_t i = 0; i < sections_.size(); ++i) {
        const Elf64_Shdr& section = sections_[i];
        if ((section.sh_flags & SHF_ALLOC) == 0 || group_of(section) != group) {
          continue;
        }
        if ((section.sh_flags & SHF_TLS) != 0) {
          fail("thread-local data is not supported");
        }
        const uint64_t align = std::max<uint64_t>(section.sh_addralign, 1);
        if ((align & (align - 1)) != 0 || align > kPage) {
          fail("a section asks for alignment " + std::to_string(align));
        }
        at = (at + align - 1) & ~(align - 1);
        if (section.sh_size > kMostBytes || at > kMostBytes) {
          fail("sections exceed 1 GiB");
        }
        place_[i] = at;
        at += section.sh_size;
      }
      if (group == kCode) {
        at = (at + kStubBytes - 1) & ~uint64_t{kStubBytes - 1};
        stubs_at_ = at;
        at += kStubBytes * std::size(kExternals);
      } else if (group == kReadOnly) {
        at = (at + 7) & ~uint64_t{7};
        got_at_ = at;
        at += 8 * symbols_.size();
      }
      at = (at + kPage - 1) & ~uint64_t{kPage - 1};
      group_end_[group] = at;
    }
  }

  // Where a symbol lies; outside symbols by a stub that code can reach.
  char* address_of(uint32_t index) {
    if (index >= symbols_.size()) {
      fail("a relocation names symbol " + std::to_string(index) + " of " +
           std::to_string(symbols_.size()));
    }
    const Elf64_Sym& symbol = symbols_[index];
    if (symbol.st_shndx != SHN_UNDEF) {
      if (symbol.st_shndx >= sections_.size() || !placed(symbol.st_shndx)) {
        fail("a relocation refers to '" + name_of(symbol) + "', which is not loaded");
      }
      return mapping_ + place_[symbol.st_shndx] + symbol.st_value;
    }
    const std::string name = name_of(symbol);
    for (size_t i = 0; i < std::size(kExternals); ++i) {
      if (kExternals[i].name == name) {
        char* stub = mapping_ + stubs_at_ + i * kStubBytes;
        constexpr unsigned char kJump[] = {0xff, 0x25, 0, 0, 0, 0};
        std::memcpy(stub, kJump, sizeof kJump);
        std::memcpy(stub + sizeof kJump, &kExternals[i].address, sizeof(void*));
        return stub;
      }
    }
    fail("undefined symbol '" + name + "' (only memcpy, memmove and memset are provided)");
  }

  void relocate(const Elf64_Shdr& table) {
    if (table.sh_entsize != sizeof(Elf64_Rela)) {
      fail("relocations have an unknown size");
    }
    const Elf64_Shdr& target = sections_[table.sh_info];
    const auto entries = file_.table<Elf64_Rela>(
        table.sh_offset, table.sh_size / sizeof(Elf64_Rela), "a relocation table");
    for (const Elf64_Rela& entry : entries) {
      const uint32_t type = ELF64_R_TYPE(entry.r_info);
      const uint32_t index = ELF64_R_SYM(entry.r_info);
      const uint64_t width = type == R_X86_64_64 ? 8 : 4;
      if (target.sh_type == SHT_NOBITS || entry.r_offset > target.sh_size ||
          width > target.sh_size - entry.r_offset) {
        fail("a relocation lies outside its section");
      }
      char* where = mapping_ + place_[table.sh_info] + entry.r_offset;
      // Damaged addends may overflow; they wrap, and the range check below refuses them.
      const auto addend = static_cast<uint64_t>(entry.r_addend);
      switch (type) {
        case R_X86_64_64: {
          const uint64_t value = reinterpret_cast<uint64_t>(address_of(index)) + addend;
          std::memcpy(where, &value, sizeof value);
          break;
        }
        case R_X86_64_PC32:
        case R_X86_64_PLT32:
          store_relative(where, address_of(index), addend);
          break;
        case R_X86_64_GOTPCREL:
        case R_X86_64_GOTPCRELX:
        case R_X86_64_REX_GOTPCRELX: {
          char* address = address_of(index);
          char* entry_of_got = mapping_ + got_at_ + 8 * uint64_t{index};
          std::memcpy(entry_of_got, &address, sizeof address);
          store_relative(where, entry_of_got, addend);
          break;
        }
        default:
          fail("relocation " + std::string(relocation_name(type)) + " is not supported");
      }
    }
  }

  static void store_relative(char* where, const char* to, uint64_t addend) {
    const auto distance = static_cast<int64_t>(reinterpret_cast<uint64_t>(to) + addend -
                                               reinterpret_cast<uint64_t>(where));
    if (distance != static_cast<int32_t>(distance)) {
      fail("a relocation reaches further than 2 GiB");
    }
    const auto value = static_cast<int32_t>(distance);
    std::memcpy(where, &value, sizeof value);
  }

  static std::string relocation_name(uint32_t type) {
    switch (type) {
      case R_X86_64_32:
        return "R_X86_64_32 (compile with reloc='pic')";
      case R_X86_64_32S:
        return "R_X86_64_32S (compile with reloc='pic')";
      case R_X86_64_TLSGD:
      case R_X86_64_TLSLD:
      case R_X86_64_GOTTPOFF:
        return "for thread-local data (type " + std::to_string(type) + ")";
      default:
        return "of type " + std::to_string(type);
    }
  }

  void protect(Group group, int protection) {
    const uint64_t size = group_end_[group] - group_begin_[group];
    if (size > 0 && mprotect(mapping_ + group_begin_[group], size, protection) != 0) {
      fail(std::string("the system refuses to make memory executable: ") + std::strerror(errno));
    }
  }

  File file_;
  std::vector<Elf64_Shdr> sections_;
  std::vector<Elf64_Sym> symbols_;
  Elf64_Shdr strings_{};
  std::vector<uint64_t> place_;  // of each section in the mapping
  uint64_t group_begin_[kGroups] = {};
  uint64_t group_end_[kGroups] = {};
  uint64_t stubs_at_ = 0;
  uint64_t got_at_ = 0;
  char* mapping_ = nullptr;
};

}  // namespace

Code::Code(const void* data, size_t nbytes) {
  Loading loading(data, nbytes);
  mapped_bytes_ = loading.mapped_bytes();
  void* mapping =
      mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    fail(std::string("cannot map memory: ") + std::strerror(errno));
  }
  mapping_ = static_cast<char*>(mapping);
  try {
    loading.fill(mapping_);
    symbols_ = loading.exported();
  } catch (...) {
    munmap(mapping_, mapped_bytes_);
    throw;
  }
}

Code::~Code() {
  munmap(mapping_, mapped_bytes_);
}

void* Code::symbol(std::string_view name) const {
  const auto found = symbols_.find(name);
  return found == symbols_.end() ? nullptr : found->second;
}

}  // namespace deepseek
