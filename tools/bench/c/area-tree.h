/*
 * The areas of an I/O address space as Linux keeps them: a red-black tree ordered by start, every node of which knows the
 * last address of its subtree (include/linux/interval_tree_generic.h).
 */

struct area {
	struct area *parent, *left, *right;
	int red;
	u64 start, last, subtree_last;
	struct pages *pages;
};

struct area_tree {
	struct area *root;
};

static int is_red(const struct area *area)
{
	return area && area->red;
}

/* Brings `area` up to date with its children; gives whether that changed it. */
static int update(struct area *area)
{
	u64 last = area->last;

	if (area->left && area->left->subtree_last > last)
		last = area->left->subtree_last;
	if (area->right && area->right->subtree_last > last)
		last = area->right->subtree_last;
	if (area->subtree_last == last)
		return 0;
	area->subtree_last = last;
	return 1;
}

static void replace_child(struct area_tree *tree, struct area *parent, struct area *old, struct area *fresh)
{
	if (!parent)
		tree->root = fresh;
	else if (parent->left == old)
		parent->left = fresh;
	else
		parent->right = fresh;
}

/* Lifts the child of `down` on the other side than `to_left` says into its place. */
static void rotate(struct area_tree *tree, struct area *down, int to_left)
{
	struct area *up = to_left ? down->right : down->left;
	struct area *middle = to_left ? up->left : up->right;

	if (to_left) {
		down->right = middle;
		up->left = down;
	} else {
		down->left = middle;
		up->right = down;
	}
	if (middle)
		middle->parent = down;
	replace_child(tree, down->parent, down, up);
	up->parent = down->parent;
	down->parent = up;
	up->subtree_last = down->subtree_last;
	update(down);
}

static void area_insert(struct area_tree *tree, struct area *area)
{
	struct area *parent = NULL, **link = &tree->root;

	while (*link) {
		parent = *link;
		if (parent->subtree_last < area->last)
			parent->subtree_last = area->last;
		link = area->start < parent->start ? &parent->left : &parent->right;
	}
	area->parent = parent;
	area->left = area->right = NULL;
	area->red = 1;
	area->subtree_last = area->last;
	*link = area;
	while (is_red(area->parent)) {
		struct area *grand = area->parent->parent;
		int left = area->parent == grand->left;
		struct area *uncle = left ? grand->right : grand->left;

		if (is_red(uncle)) {
			area->parent->red = uncle->red = 0;
			grand->red = 1;
			area = grand;
			continue;
		}
		if (area == (left ? area->parent->right : area->parent->left)) {
			area = area->parent;
			rotate(tree, area, left);
		}
		area->parent->red = 0;
		grand->red = 1;
		rotate(tree, grand, !left);
	}
	tree->root->red = 0;
}

/* Restores the number of black nodes on the paths through `area`, which may be NULL, below `parent`. */
static void rebalance(struct area_tree *tree, struct area *area, struct area *parent)
{
	while (parent && !is_red(area)) {
		int left = area == parent->left;
		struct area *other = left ? parent->right : parent->left;
		struct area *far, *near;

		if (is_red(other)) {
			other->red = 0;
			parent->red = 1;
			rotate(tree, parent, left);
			other = left ? parent->right : parent->left;
		}
		far = left ? other->right : other->left;
		near = left ? other->left : other->right;
		if (!is_red(far) && !is_red(near)) {
			other->red = 1;
			area = parent;
			parent = area->parent;
			continue;
		}
		if (!is_red(far)) {
			near->red = 0;
			other->red = 1;
			rotate(tree, other, !left);
			far = other;
			other = near;
		}
		other->red = parent->red;
		parent->red = far->red = 0;
		rotate(tree, parent, left);
		return;
	}
	if (area)
		area->red = 0;
}

/* Brings the nodes from `area` up to below `stop` up to date, as far as something changes. */
static void propagate(struct area *area, struct area *stop)
{
	while (area != stop && update(area))
		area = area->parent;
}

static void area_remove(struct area_tree *tree, struct area *area)
{
	struct area *child, *parent;
	int red = area->red;

	if (area->left && area->right) {
		struct area *next = area->right;

		while (next->left)
			next = next->left;
		red = next->red;
		child = next->right;
		parent = next->parent == area ? next : next->parent;
		if (parent != next) {
			parent->left = child;
			next->right = area->right;
			area->right->parent = next;
		}
		next->left = area->left;
		area->left->parent = next;
		next->red = area->red;
		next->parent = area->parent;
		next->subtree_last = area->subtree_last;
		replace_child(tree, area->parent, area, next);
		if (child)
			child->parent = parent;
		propagate(parent, next);
		propagate(next, NULL);
	} else {
		child = area->left ? area->left : area->right;
		parent = area->parent;
		replace_child(tree, parent, area, child);
		if (child)
			child->parent = parent;
		propagate(parent, NULL);
	}
	if (!red)
		rebalance(tree, child, parent);
}

/* The first area that ends at or after `address`. */
__attribute__((noinline)) static struct area *area_from(const struct area_tree *tree, u64 address)
{
	struct area *area = tree->root;

	if (!area || area->subtree_last < address)
		return NULL;
	for (;;) {
		if (area->left && area->left->subtree_last >= address)
			area = area->left;
		else if (area->last >= address)
			return area;
		else
			area = area->right;
	}
}

static struct area *area_after(struct area *area)
{
	if (area->right) {
		for (area = area->right; area->left;)
			area = area->left;
		return area;
	}
	while (area->parent && area == area->parent->right)
		area = area->parent;
	return area->parent;
}

/* The first aligned place for `length` bytes, going through the gaps between areas as iopt_alloc_iova does; 0: none. */
__attribute__((noinline)) static u64 first_fit(const struct area_tree *tree, u64 length, u64 alignment)
{
	u64 next = 4096;

	for (struct area *area = area_from(tree, next);; area = area_after(area)) {
		u64 end = area ? area->start : -4096ull;
		u64 at = (next + alignment - 1) & -alignment;

		if (at < end && end - at >= length)
			return at;
		if (!area)
			return 0;
		next = area->last + 1;
	}
}
