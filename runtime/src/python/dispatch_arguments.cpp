// Holds a call's arguments against an entry: their structure, types, identities and sizes.
#include "dispatch.h"

namespace deepseek::python {
namespace {

class Matcher {
 public:
  Matcher(const Entry& entry, Frame& frame) : items_(entry.arguments), frame_(frame) {}

  bool match(const Arguments& given, const Entry& entry) {
    const size_t named =
        given.keywords == nullptr ? 0 : static_cast<size_t>(PyTuple_GET_SIZE(given.keywords));
    if (given.positional != entry.positional || named != entry.keywords.size()) {
      return false;
    }
    for (size_t i = 0; i < named; ++i) {
      if (!match_key(PyTuple_GET_ITEM(given.keywords, static_cast<Py_ssize_t>(i)),
                     entry.keywords[i])) {
        return false;
      }
    }
    for (size_t i = 0; i < given.positional + named; ++i) {
      if (!match(given.values[i])) {
        return false;
      }
    }
    return true;
  }

 private:
  // The object is held by the caller while this looks at it.
  bool match(PyObject* object) {
    const Item& item = items_[at_++];
    switch (item.kind) {
      case Item::Kind::kTensor:
        return match_tensor(object);
      case Item::Kind::kNumber:
        return match_number(item, object);
      case Item::Kind::kGenerator:
        return Py_TYPE(object) == frontend.generator && add(object);
      case Item::Kind::kSequence:
        return match_sequence(item, object);
      case Item::Kind::kDict:
        return match_dict(item, object);
      case Item::Kind::kSame:
        return same_copy(object, item.object);
      case Item::Kind::kIs:
        return object == item.object;
      case Item::Kind::kSize:
      case Item::Kind::kCopied:
        break;  // in results only
    }
    return false;
  }

  bool add(PyObject* leaf) {
    frame_.leaves.add(leaf);
    return true;
  }

  static bool match_key(PyObject* key, const Item::Key& expected) {
    return key == expected.object ||
           (expected.copied != nullptr && same_copy(key, expected.copied));
  }

  bool match_tensor(PyObject* object) {
    if (is_tensor(object)) {
      return add(object);
    }
    if (!PyObject_TypeCheck(object, frontend.array) &&
        !PyObject_TypeCheck(object, frontend.floating)) {
      return false;
    }
    for (size_t i = 0; i < frame_.arrays.size(); i += 2) {
      if (frame_.arrays[i] == object) {
        return add(frame_.arrays[i + 1]);
      }
    }
    py::object made = checked(PyObject_CallOneArg(frontend.as_tensor, object));
    add(made.ptr());
    frame_.arrays.add(object);
    frame_.arrays.take(made.release().ptr());
    return true;
  }

  bool match_number(const Item& item, PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != item.object) {
      return false;
    }
    if (PyLong_CheckExact(object)) {
      int overflow = 0;
      PyLong_AsLongLongAndOverflow(object, &overflow);
      if (overflow != 0) {
        return false;
      }
    }
    return add(object);
  }

  bool match_sequence(const Item& item, PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != item.object) {
      return false;
    }
    const bool tuple = PyTuple_Check(object);
    const auto count = static_cast<Py_ssize_t>(item.count);
    const auto has_count = [&] {
      return (tuple ? PyTuple_GET_SIZE(object) : PyList_GET_SIZE(object)) == count;
    };
    for (Py_ssize_t i = 0; i < count; ++i) {
      if (!has_count()) {  // what a part is asked may shorten the list
        return false;
      }
      const auto part = py::reinterpret_borrow<py::object>(tuple ? PyTuple_GET_ITEM(object, i)
                                                                 : PyList_GET_ITEM(object, i));
      if (!match(part.ptr())) {
        return false;
      }
    }
    return has_count();
  }

  bool match_dict(const Item& item, PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != item.object ||
        static_cast<size_t>(PyDict_GET_SIZE(object)) != item.count) {
      return false;
    }
    size_t next = 0;
    return each_entry(object,
                      [&](PyObject* key, PyObject* value) {
                        return next < item.count && match_key(key, item.keys[next++]) &&
                               match(value);
                      }) &&
           next == item.count;
  }

  const std::vector<Item>& items_;
  Frame& frame_;
  size_t at_ = 0;
};

// ---- leaves ------------------------------------------------------------------------------------

bool sizes_fit(const Leaf& leaf, PyObject* shape, Frame& frame) {
  if (static_cast<size_t>(PyTuple_GET_SIZE(shape)) != leaf.dims.size()) {
    return false;
  }
  for (size_t axis = 0; axis < leaf.dims.size(); ++axis) {
    PyObject* size = PyTuple_GET_ITEM(shape, static_cast<Py_ssize_t>(axis));
    if (!PyLong_Check(size)) {
      return false;  // a placeholder, shown by a trace on another thread
    }
    const int64_t number = PyLong_AsLongLong(size);
    const int64_t dim = leaf.dims[axis];
    if (dim < 0) {
      frame.sizes[static_cast<size_t>(~dim)] = number;
    } else if (dim != number) {
      return false;
    }
  }
  return true;
}

bool leaf_fits(const Leaf& leaf, PyObject* object, Frame& frame) {
  if (leaf.kind == Item::Kind::kNumber) {
    return leaf.pinned == nullptr || same_plain(object, leaf.pinned);
  }
  if (leaf.kind != Item::Kind::kTensor) {
    return true;
  }
  PyObject* value = value_of(object);
  PyObject* type = slot(value, frontend.value_type);
  if (slot(value, frontend.value_requires_grad) != leaf.requires_grad) {
    return false;
  }
  if (leaf.type != nullptr) {
    return type == leaf.type;
  }
  return slot(type, frontend.type_dtype) == leaf.dtype &&
         slot(type, frontend.type_device) == leaf.device &&
         sizes_fit(leaf, slot(type, frontend.type_shape), frame);
}

bool leaves_fit(const Entry& entry, Frame& frame) {
  frame.sizes.assign(entry.num_symbols, 0);
  for (size_t i = 0; i < entry.leaves.size(); ++i) {
    const Leaf& leaf = entry.leaves[i];
    if (leaf.same != i ? frame.leaves[leaf.same] != frame.leaves[i]
                       : !leaf_fits(leaf, frame.leaves[i], frame)) {
      return false;
    }
  }
  return true;
}

// ---- sizes -------------------------------------------------------------------------------------

constexpr size_t kMostAdmitted = 1024;

std::shared_ptr<const Admitted> ask_about(const Entry& entry, const std::vector<int64_t>& sizes) {
  py::tuple numbers(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    numbers[i] = sizes[i];
  }
  auto admitted = std::make_shared<Admitted>();
  admitted->holder = entry.plan.attr("admit")(numbers);
  admitted->ok = !admitted->holder.is_none();
  if (admitted->ok) {
    const auto pair = py::reinterpret_borrow<py::tuple>(admitted->holder);
    for (const py::handle type : py::reinterpret_borrow<py::tuple>(pair[0])) {
      admitted->types.push_back(type.ptr());
    }
    for (const py::handle size : py::reinterpret_borrow<py::tuple>(pair[1])) {
      admitted->sizes.push_back(size.ptr());
    }
  }
  return admitted;
}

bool sizes_admitted(Entry& entry, Frame& frame) {
  const auto found = entry.admitted.find(frame.sizes);
  if (found != entry.admitted.end()) {
    frame.admitted = found->second;
    return frame.admitted->ok;
  }
  frame.admitted = ask_about(entry, frame.sizes);
  if (entry.admitted.size() >= kMostAdmitted) {
    // Its types go when no other call needs them.
    const std::shared_ptr<const Admitted> dropped = entry.admitted.begin()->second;
    entry.admitted.erase(entry.admitted.begin());
  }
  entry.admitted.emplace(frame.sizes, frame.admitted);
  return frame.admitted->ok;
}

}  // namespace

bool arguments_fit(Entry& entry, const Arguments& arguments, Frame& frame) {
  frame.leaves.clear();
  return Matcher(entry, frame).match(arguments, entry) && leaves_fit(entry, frame) &&
         sizes_admitted(entry, frame);
}

}  // namespace deepseek::python
