from ditq.cli.show_trajectory import main

if __name__ == "__main__":
    main()
