"""The pool of cache pages: which are free, which are promised, and whether any was lost."""


class PageAllocator:
    """Hands out page numbers of a pool.

    A request is admitted only when the pool can promise all the pages it may grow to; the pages themselves are taken
    one by one as it grows. So a running request never finds the pool empty, and nothing has to be evicted.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.peak = 0  # most pages in use at once
        self._free = list(range(num_pages - 1, -1, -1))
        self._used: set[int] = set()
        self._promised = 0  # promised and not taken yet

    @property
    def in_use(self) -> int:
        return len(self._used)

    def promise(self, count: int) -> bool:
        """Sets `count` pages aside for one request; False if the pool cannot."""
        if count > len(self._free) - self._promised:
            return False
        self._promised += count
        return True

    def allocate(self) -> int:
        """A page out of those promised."""
        if self._promised == 0:
            raise RuntimeError("a page was asked for that was never promised")
        self._promised -= 1
        page = self._free.pop()
        self._used.add(page)
        self.peak = max(self.peak, len(self._used))
        return page

    def release(self, pages: list[int], never_taken: int = 0) -> None:
        """Takes back a request's pages and the rest of its promise. The page freed last is used first."""
        for page in pages:
            if page not in self._used:
                raise RuntimeError(f"page {page} was freed but not in use")
            self._used.remove(page)
            self._free.append(page)
        self._promised -= never_taken

    def leaks(self) -> str:
        """Why the pool is not whole after all requests ended; '' when it is."""
        if self._used or self._promised:
            return f"{len(self._used)} pages still in use, {self._promised} still promised"
        if sorted(self._free) != list(range(self.num_pages)):
            return "the free list is not the pool"
        return ""
